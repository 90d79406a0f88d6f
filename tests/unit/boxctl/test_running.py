"""Promises of boxctl run: output, exit codes, and what becomes of the box."""

from __future__ import annotations

import pytest

from tests.unit import fake_daemon
from tests.unit.boxctl.support import Result
from tests.unit.fake_daemon import FakeDaemon, problem


def test_run_shows_the_output_and_ends_as_the_box_ends(fake: FakeDaemon, run) -> None:
    fake.logs["aaaaaaaaaaaaaaaa"] = [b"hello\n", b"\x1b[2Jraw bytes\n"]
    _ends(fake, "aaaaaaaaaaaaaaaa", exit_code=7)
    result = run("run", "--name", "web", "--", "sh", "-c", "exit 7")
    assert result == Result(7, "hello\n\x1b[2Jraw bytes\n", "")
    assert "aaaaaaaaaaaaaaaa" in fake.boxes


def test_run_rm_removes_the_box_after_its_output_was_read(fake: FakeDaemon, run) -> None:
    fake.logs["aaaaaaaaaaaaaaaa"] = [b"hello\n"]
    _ends(fake, "aaaaaaaaaaaaaaaa", exit_code=0)
    assert run("run", "--rm", "true") == Result(0, "hello\n", "")
    assert fake.boxes == {}
    assert "auto_remove" not in fake.requests[0].body


def test_run_detached_prints_the_id_and_leaves_removal_to_the_daemon(fake: FakeDaemon, run) -> None:
    assert run("run", "-d", "--rm", "sleep", "9") == Result(0, "aaaaaaaaaaaaaaaa\n", "")
    assert fake.requests[0].body["auto_remove"] is True
    assert fake.boxes["aaaaaaaaaaaaaaaa"]["status"] == "running"


def test_a_box_that_a_signal_ended_gives_128_and_the_number(fake: FakeDaemon, run) -> None:
    _ends(fake, "aaaaaaaaaaaaaaaa", status="failed", exit_signal="SIGSEGV", failure_reason="segfault")
    result = run("run", "crasher")
    assert result.code == 139
    assert "failed: segfault" in result.err
    assert "boxctl crash" in result.err


def test_nobody_is_sent_to_a_box_that_is_removed(fake: FakeDaemon, run) -> None:
    _ends(fake, "aaaaaaaaaaaaaaaa", status="failed", exit_signal="SIGSEGV", failure_reason="segfault")
    result = run("run", "--rm", "crasher")
    assert "without --rm the box stays" in result.err
    assert fake.boxes == {}


def _ends(fake: FakeDaemon, box_id: str, status: str = "stopped", **more: object) -> None:
    """The box ends as soon as it is waited for."""

    def wait(_: fake_daemon.Request):
        fake.boxes[box_id].update(status=status, **more)
        return 200, fake.boxes[box_id]

    fake.replies["POST", f"/v1/boxes/{box_id}/wait"] = wait
    fake.replies["GET", f"/v1/boxes/{box_id}/logs"] = lambda _: (
        fake.boxes[box_id].update(status=status),
        (200, fake.logs.get(box_id, [b""])),
    )[1]


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        ("not_found", "cannot start", 127),
        (None, "execvp nothere: No such file or directory", 127),
        (None, "exec /etc/passwd: Permission denied", 126),
        ("not_found", "command '/etc/passwd' cannot be executed in the box: Permission denied", 126),
        ("not_found", "command 'not found' cannot be executed in the box: Permission denied", 126),
        (None, "the spawner is gone", 125),
    ],
)
def test_run_of_what_does_not_start_ends_as_docker_does(fake: FakeDaemon, run, kind, message, code) -> None:
    def start(_: fake_daemon.Request):
        fake.boxes["aaaaaaaaaaaaaaaa"].update(status="failed", error_kind=kind)
        return problem(503, "engine_unavailable", message)

    fake.replies["POST", "/v1/boxes/aaaaaaaaaaaaaaaa/start"] = start
    result = run("run", "--rm", "nothere")
    assert result.code == code
    assert result.err.startswith(f"boxctl: {message}")
    assert fake.boxes == {}


def test_run_that_the_daemon_refuses_is_125(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes"] = problem(422, "unsupported", "no such engine: magic")
    assert run("run", "--engine", "magic", "true").code == 125
