"""boxlited as a unit of systemd: start, restart, kill, a daemon that hangs, and requests meanwhile."""

from __future__ import annotations

import json

import pytest

from tests.oracle import World
from tests.system.boxes import Boxes
from tests.system.guest import Guest
from tests.system.steps import Steps

pytestmark = pytest.mark.timeout(600)

# Held before it can say that it is ready; what systemd then thinks of it; and let go.
START_AND_HOLD = """
systemctl start --no-block boxlited
until pid=$(systemctl show -P MainPID boxlited) && [ "$pid" != 0 ]; do :; done
kill -STOP "$pid"
systemctl show -P ActiveState boxlited
kill -CONT "$pid"
"""


@pytest.fixture
def lives(boxes: Boxes) -> World:
    """Three boxes that run, one that only exists; what must be the same afterwards."""
    for number in range(3):
        boxes.run(name=f"runs-{number}")
    boxes.create(name="rests")
    found = boxes.look()
    assert [row["status"] for row in found.rows.values()].count("running") == 3
    assert len(found.shims) == len(found.processes) == 3
    return found


def test_service_is_active_only_when_the_daemon_is_ready(guest: Guest, boxes: Boxes) -> None:
    guest.run("systemctl stop boxlited")
    assert guest.say(START_AND_HOLD) == "activating"
    guest.run("systemctl start boxlited")  # waits for the job that is there already
    assert guest.unit("ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
    assert boxes.is_ready()


def test_restart_of_the_service_loses_no_box(guest: Guest, boxes: Boxes, lives: World, steps: Steps) -> None:
    for number in range(3):
        before = guest.main_pid()
        with steps.step(f"restart {number + 1}"):
            guest.run("systemctl restart boxlited")
        assert guest.main_pid() != before
        boxes.check(lives)


@pytest.mark.parametrize("whom", ["main", "all"])
def test_killed_service_is_started_again_and_loses_no_box(
    guest: Guest, boxes: Boxes, lives: World, steps: Steps, whom: str
) -> None:
    for number in range(2):
        before, restarts = guest.main_pid(), int(guest.unit("NRestarts")["NRestarts"])
        with steps.step(f"kill {number + 1}"):
            guest.run(f"systemctl kill --kill-whom={whom} -s KILL boxlited")
            guest.until(lambda: guest.main_pid() not in (0, before), "systemd starts it again")  # noqa: B023
            guest.until(boxes.is_ready, "the daemon is ready again")
        assert int(guest.unit("NRestarts")["NRestarts"]) == restarts + 1
        boxes.check(lives)


def test_kill_of_the_unit_of_the_boxes_is_told_of_every_box(guest: Guest, boxes: Boxes, lives: World) -> None:
    guest.run("systemctl kill -s KILL boxlited-boxes")
    for box_id, life in lives.rows.items():
        if life["status"] == "configured":
            assert boxes.get(box_id)["status"] == "configured"
        else:
            row = boxes.until(box_id, "failed")
            assert (row["pid"], row["stop_cause"]) == (None, "shim_killed")
            assert "SIGKILL" in row["failure_reason"]
    assert boxes.all().keys() == lives.rows.keys()


def test_boxes_do_not_depend_on_the_process_that_holds_their_unit(guest: Guest, boxes: Boxes, lives: World) -> None:
    guest.run("systemctl kill --kill-whom=main -s KILL boxlited-boxes")
    guest.until(lambda: guest.unit("ActiveState", unit="boxlited-boxes") == {"ActiveState": "failed"}, "it ends")
    boxes.check(lives)
    guest.run("systemctl restart boxlited")
    boxes.check(lives)
    assert boxes.run(memory_mib=64)["not_applied"] == []
    boxes.remove_all()
    guest.run("systemctl restart boxlited")
    assert guest.unit("ActiveState", unit="boxlited-boxes") == {"ActiveState": "active"}
    assert boxes.run(memory_mib=64)["not_applied"] == []


def test_daemon_that_hangs_is_bitten_by_the_watchdog_and_loses_no_box(
    guest: Guest, boxes: Boxes, lives: World, steps: Steps
) -> None:
    before, cursor = guest.main_pid(), guest.journal_cursor()
    with steps.step("held until the watchdog bites"):
        guest.run(f"kill -STOP {before}")
        guest.until(lambda: guest.main_pid() not in (0, before), "systemd replaces it")
        guest.until(boxes.is_ready, "the daemon is ready again")
    assert "Watchdog timeout" in guest.journal(since=cursor)
    boxes.check(lives)


def test_requests_lose_no_connection_while_the_service_restarts(guest: Guest, boxes: Boxes, steps: Steps) -> None:
    asking = guest.begin(f"{guest.program('requesting.py')} 8 /root/enough")
    guest.run("rm -f /root/enough /root/under-way; until [ -e /root/under-way ]; do sleep 0.1; done")
    for number in range(5):
        with steps.step(f"restart {number + 1} under requests"):
            guest.run("systemctl restart boxlited")
    guest.run("touch /root/enough")
    report = json.loads(guest.finish(asking).out)
    steps.say(f"{report['answered']} requests answered, {len(report['lost'])} lost")
    assert report["lost"] == []
    assert report["answered"] > 100
    assert len(boxes.all()) == report["created"]
