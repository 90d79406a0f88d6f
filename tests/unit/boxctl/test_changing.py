"""Promises of the commands of boxctl that change boxes: what is sent, and to which of them."""

from __future__ import annotations

import pytest

from tests.unit.boxctl.support import DB, WEB
from tests.unit.fake_daemon import FakeDaemon


def test_a_warning_of_the_daemon_about_what_it_did_is_shown(fake: FakeDaemon, run) -> None:
    box = fake.add("a" * 16, "web")
    stopped = {**box, "status": "stopped", "warning": "its newest state is not on the disk"}
    fake.replies["POST", "/v1/boxes/web/stop"] = 200, stopped
    result = run("stop", "web")
    assert (result.code, result.out) == (0, "web\n")
    assert "warning: box web: its newest state is not on the disk" in result.err


def test_without_a_time_stop_and_restart_take_the_one_that_the_daemon_is_configured_for(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    for arguments in (["stop"], ["restart"], ["stop", "-t", "2"]):
        assert run(*arguments, "web").code == 0
    sent = [request.body for request in fake.requests if request.method == "POST"]
    assert sent == [{"timeout_seconds": 7.0}, {"timeout_seconds": 7.0}, {"timeout_seconds": 2.0}]


@pytest.mark.parametrize("seconds", ["-1", "3601", "inf", "nan", "soon"])
def test_a_time_that_the_daemon_would_not_take_is_wrong_use(fake: FakeDaemon, run, seconds: str) -> None:
    fake.add(WEB, "web")
    result = run("stop", "-t", seconds, "web")
    assert (result.code, fake.requests) == (2, [])
    assert "--time" in result.err


def test_several_boxes_are_each_done_or_complained_of(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db")
    result = run("stop", "web", "nobody", "db")
    assert result.code == 3  # what failed, failed for that
    assert result.out == "web\ndb\n"
    assert result.err.splitlines()[0] == "boxctl: no box is called 'nobody'"
    assert fake.boxes[DB]["status"] == "stopped"


def test_a_unique_beginning_of_an_id_is_enough(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db")
    assert run("stop", "webaa").code == 0
    assert fake.boxes[WEB]["status"] == "stopped"
    assert fake.boxes[DB]["status"] == "running"


def test_an_ambiguous_beginning_touches_nothing(fake: FakeDaemon, run) -> None:
    fake.add("aaaaaaaaaaaaaaab", "one")
    fake.add("aaaaaaaaaaaaaaac", "two")
    result = run("kill", "aaa")
    assert result.code == 2
    assert "2 boxes" in result.err
    assert {box["status"] for box in fake.boxes.values()} == {"running"}


def test_a_name_wins_over_a_beginning(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "weba")
    run("stop", "weba")
    assert fake.boxes[WEB]["status"] == "running"


def test_rm_of_a_running_box_says_what_to_do(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    result = run("rm", "web")
    assert result.code == 1
    assert "hint:" in result.err
    assert run("rm", "-f", "web").code == 0
    assert fake.boxes == {}


def test_kill_sends_the_signal_that_was_named(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    assert run("kill", "-s", "usr1", "web").code == 0
    assert fake.requests[-1].body == {"signal": 10}


def test_restart_and_reset_failed_reach_their_routes(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web", "failed")
    assert run("restart", "-t", "2", "web").code == 0
    assert run("reset-failed", "web").code == 0
    assert fake.calls() == [("POST", "/v1/boxes/web/restart"), ("POST", "/v1/boxes/web/reset-failed")]


def test_create_sends_what_was_asked_and_nothing_else(fake: FakeDaemon, run, monkeypatch) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    arguments = (
        "create --name web --rm -e A=1 -e FROM_HERE -v /tmp:/data:ro --cpus 1.5 -m 512m --pids 50"
        " --restart on-failure:3 --engine process --network -l k=v -w /data -u nobody -- sh -c 'x y' --rm"
    )
    import shlex

    result = run(*shlex.split(arguments))
    assert (result.code, result.out) == (0, "aaaaaaaaaaaaaaaa\n")
    assert fake.requests[0].body == {
        "name": "web", "auto_remove": True, "env": {"A": "1", "FROM_HERE": "yes"},
        "volumes": [{"host_path": "/tmp", "guest_path": "/data", "read_only": True}],
        "cpus": 1.5, "memory_mib": 512, "pids": 50, "restart": {"policy": "on-failure", "max_retries": 3},
        "engine": "process", "network": {"outbound": {"mode": "enabled"}}, "labels": {"k": "v"},
        "working_dir": "/data", "user": "nobody", "image": "host", "cmd": ["sh", "-c", "x y", "--rm"],
    }  # fmt: skip
    run("create", "true")
    assert fake.requests[1].body == {"image": "host", "cmd": ["true"]}
    assert fake.requests[0].headers["idempotency-key"] != fake.requests[1].headers["idempotency-key"]


def test_a_command_with_options_of_its_own_needs_no_dashes(fake: FakeDaemon, run) -> None:
    run("create", "--name", "web", "sleep", "--help", "-d")
    assert fake.requests[0].body["cmd"] == ["sleep", "--help", "-d"]
