"""Restart policies through the real daemon: when they act, when they give up, and that a user has the last word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.daemon_harness import Daemon, kill_pid, until

CONFIG = "[reconcile]\nperiod_seconds = 0.5\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon(CONFIG) as daemon:
        yield daemon.start()


def told(daemon: Daemon, box: dict[str, Any]) -> list[str]:
    with daemon.client.events(0, follow=False) as events:
        return [event["kind"] for event in events if event["box_id"] == box["box_id"]]


def test_on_failure_restarts_until_it_gives_up(shared: Daemon) -> None:
    policy = {"policy": "on-failure", "max_retries": 2, "backoff": {"initial_seconds": 0.05}}
    box = shared.run(["/bin/sh", "-c", "echo run; exit 4"], restart=policy)
    row = shared.until_box(box["box_id"], lambda b: b["desired"] == "stopped", "gives up")
    assert (row["restart_count"], row["exit_code"], row["status"]) == (2, 4, "stopped")
    assert b"".join(shared.client.logs(box["box_id"])).count(b"run") == 3
    shared.client.remove(box["box_id"])


def test_a_manual_stop_beats_the_policy(shared: Daemon) -> None:
    policy = {"policy": "always", "backoff": {"initial_seconds": 0.05}}
    box = shared.run(restart=policy)
    kill_pid(box["pid"])
    again = shared.until_box(
        box["box_id"], lambda b: b["status"] == "running" and b["pid"] != box["pid"], "is restarted by its policy"
    )
    assert again["restart_count"] == 1
    shared.client.stop(box["box_id"])
    shared.client.reconcile()
    assert shared.get(box["box_id"])["status"] == "stopped"
    shared.client.remove(box["box_id"])


def test_a_due_restart_survives_a_restart_of_the_daemon() -> None:
    with Daemon(CONFIG) as daemon:
        daemon.start()
        policy = {"policy": "always", "backoff": {"initial_seconds": 0.3}}
        box = daemon.run(restart=policy)
        daemon.kill9()
        kill_pid(box["pid"])
        until(lambda: not daemon.shims(), "the shim ends")
        daemon.start()
        until(lambda: daemon.get(box["box_id"])["status"] == "running", "the policy restarts it")


def test_a_stop_beats_the_timer_that_runs(shared: Daemon) -> None:
    box = shared.run(restart={"policy": "always", "backoff": {"initial_seconds": 0.5}})
    kill_pid(box["pid"])
    until(lambda: "restarting" in told(shared, box), "the timer runs")
    shared.client.stop(box["box_id"])
    other = shared.run(restart={"policy": "always", "backoff": {"initial_seconds": 0.8}})  # longer than the first
    kill_pid(other["pid"])
    shared.until_box(other["box_id"], lambda row: row["restart_count"] == 1, "is restarted by its policy")
    row = shared.get(box["box_id"])
    assert (row["status"], row["desired"], row["restart_count"]) == ("failed", "stopped", 0)
    for one in (box, other):
        shared.client.remove(one["box_id"], force=True)


def test_a_start_by_a_user_ends_the_timer_and_the_next_end_begins_another(shared: Daemon) -> None:
    """The old one would have the box wait for as long as it has still to run."""
    box = shared.run(restart={"policy": "always", "backoff": {"initial_seconds": 3600, "max_seconds": 3600}})
    for runs in (1, 2):
        kill_pid(shared.get(box["box_id"])["pid"])
        until(lambda runs=runs: told(shared, box).count("restarting") == runs, "the policy says when it acts")
        shared.client.start(box["box_id"])
    shared.client.remove(box["box_id"], force=True)
