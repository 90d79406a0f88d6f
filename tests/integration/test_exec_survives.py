"""Commands belong to the shim: they outlive client and daemon, lose no byte of output by that, and die with the box."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.commands import Commands
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, signal_pid, until
from tests.integration.impatient import impatient
from tests.integration.test_lifecycle import descendants
from tests.integration.ws import Attached, Refused

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.1\njitter = 0.0\n"
GO = Path(f"/tmp/bxt-go-{os.getpid()}")
COUNT = "i=0; while [ $i -lt %d ]; do echo 00000000000000000000000000000000000000000000000000000$i; i=$((i+1)); done"


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


@pytest.fixture(params=["sandbox", "process"])
def box(daemon: Daemon, request: pytest.FixtureRequest) -> Commands:
    return Commands(daemon, daemon.run(engine=request.param)["box_id"])


@pytest.fixture
def sandbox(daemon: Daemon) -> Commands:
    return Commands(daemon, daemon.run()["box_id"])


def counted(count: int) -> bytes:
    return b"".join(b"%053d%d\n" % (0, number) for number in range(count))


def pid_on_host(box: Commands, mark: str) -> int:
    """Of the process in a box whose command line holds the mark."""
    shim = box.daemon.get(box.box)["pid"]

    def look() -> int:
        for pid in descendants(shim):
            try:
                if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
            except OSError:
                continue
        return 0

    return until(look, f"a process {mark} below shim {shim}")


def test_a_command_goes_on_over_a_kill_of_the_daemon_and_is_listed_with_its_end(box: Commands) -> None:
    runs = box.exec("sh", "-c", "echo before; read x; echo got $x; exit 5")
    ends = box.exec("sh", "-c", f"until [ -e {GO} ]; do sleep 0.02; done; exit 9")
    box.daemon.kill9()
    for go in (box.daemon.box_dir(box.box) / "tmp" / GO.name, GO):  # the box's own /tmp, or the host's
        go.touch()
    box.daemon.start()
    assert box.until(ends, status="completed")["exit_code"] == 9
    assert [one["execution_id"] for one in box.list()] == [runs, ends]
    assert box.info(runs)["status"] == "running"
    with box.attach(runs) as stream:
        stream.stdin(b"it\n")
        end = stream.end()
    assert (end.stdout, end.exit_code) == (b"before\ngot it\n", 5)
    GO.unlink()


def test_output_while_nobody_is_attached_is_there_afterwards(box: Commands) -> None:
    execution = box.exec("sh", "-c", "echo one; echo two >&2; read x; echo three")
    with box.attach(execution) as stream:
        stream.until(b"one\n")
    box.until(execution, attached=False)
    with box.attach(execution) as stream:
        stream.stdin(b"\n")
        end = stream.end()
    assert end.stdout.endswith(b"three\n")
    box.until(execution, attached=False)
    end = box.attach(execution, "?since=0").end()
    assert (end.stdout, end.stderr, end.exit_code) == (b"one\nthree\n", b"two\n", 0)


def test_output_is_whole_over_kills_of_daemon_and_client_in_the_middle(sandbox: Commands) -> None:
    """The client goes on from the last byte that it has, whoever of the two was killed."""
    lines = 120_000
    execution = sandbox.exec("sh", "-c", COUNT % lines)
    expected = counted(lines)
    output = b""
    code = None
    cuts = 0
    while code is None:
        stream = attach_again(sandbox, execution, len(output))
        killed = False
        for frame in stream.frames():
            if isinstance(frame, tuple):
                output += frame[1]
            elif isinstance(frame, dict):
                assert frame["type"] == "exit", frame
                code = frame["exit_code"]
            if cuts < 8 and len(output) > (cuts + 1) * len(expected) // 10:
                cuts += 1
                killed = cuts % 2 == 0
                if killed:
                    assert sandbox.daemon.process is not None
                    sandbox.daemon.process.kill()  # what it has sent already may be read still
                    continue
                break
        stream.close()
        if killed or (sandbox.daemon.process is not None and sandbox.daemon.process.poll() is not None):
            sandbox.daemon.restart_after_kill()
    assert (code, cuts) == (0, 8)
    assert output == expected


def attach_again(box: Commands, execution: str, since: int) -> Attached:
    """The one before may not have gone yet."""

    def look() -> Attached | None:
        try:
            return box.attach(execution, f"?since={since}")
        except Refused as refused:
            if refused.status != 409:
                raise
            return None

    found = until(look, "the place is free")
    assert found is not None
    return found


def test_the_key_of_an_exec_is_the_same_execution_after_a_kill(sandbox: Commands) -> None:
    first = sandbox.exec("sh", "-c", "echo once >> once; sleep 987654", key="k")
    sandbox.daemon.restart_after_kill()
    assert sandbox.exec("sh", "-c", "echo once >> once; sleep 987654", key="k") == first
    assert sandbox.sh("cat once") == "once\n"
    sandbox.daemon.client.stop(sandbox.box, 1)
    assert sandbox.exec("true", key="k") != first, "a new run knows nothing of the executions of the last"


@pytest.mark.parametrize("how", ["stop", "kill shim", "kill box", "remove"])
def test_no_command_outlives_its_box_and_the_client_sees_the_end(box: Commands, how: str) -> None:
    daemon = box.daemon
    script = "trap '' TERM HUP INT; (setsid sleep 4711 &) ; echo ready; while :; do sleep 4712; done"
    execution = box.exec("sh", "-c", script)
    stream = box.attach(execution)
    stream.until(b"ready")
    left = [pid_on_host(box, mark) for mark in ("4711", "4712")]
    shim = daemon.get(box.box)["pid"]
    if how == "stop":
        daemon.client.stop(box.box, 5)
    elif how == "kill box":
        daemon.client.kill(box.box)
    elif how == "remove":
        daemon.client.remove(box.box, force=True)
    else:
        kill_pid(shim)
    end = stream.end()
    assert (end.exit_code, end.code) == (137, 1000)
    assert end.exit is not None
    assert end.exit["error_message"] == "the box has ended"
    until(lambda: not any(is_alive(pid) for pid in left), "nothing of the command is left", 10)


def test_no_client_is_needed_for_a_box_to_stop_while_commands_write(sandbox: Commands) -> None:
    for _ in range(5):
        sandbox.exec("sh", "-c", "yes")
    assert sandbox.daemon.client.stop(sandbox.box, 5)["status"] == "stopped"


def test_a_daemon_that_stops_tells_its_clients_to_come_again(sandbox: Commands) -> None:
    execution = sandbox.exec("sh", "-c", "echo here; read x; echo $x")
    with sandbox.attach(execution) as stream, ThreadPoolExecutor() as pool:
        stream.until(b"here")
        stopping = pool.submit(sandbox.daemon.stop)
        end = stream.end()
        assert (end.code, end.exit) == (1001, None)
        assert stopping.result() == 0
    sandbox.daemon.start()
    with sandbox.attach(execution) as stream:
        stream.stdin(b"there\n")
        assert stream.end().stdout == b"there\n"


def test_a_command_keeps_its_box_from_being_idle(daemon: Daemon) -> None:
    """auto_stop counts from the last use, and a command that runs is one."""
    box = Commands(daemon, daemon.run(auto_stop=1)["box_id"])
    execution = box.exec("sh", "-c", "read x")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 2.5 or daemon.get(box.box)["status"] != "running", "twice the idle time")
    assert daemon.get(box.box)["status"] == "running"
    with box.attach(execution) as stream:
        stream.stdin(b"\n")
        stream.end()
    assert daemon.wait_status(box.box, "stopped")["stop_cause"] == "auto_stop"


def test_an_exec_is_a_use_of_the_box(daemon: Daemon) -> None:
    row = daemon.run(auto_stop=2)
    box = Commands(daemon, row["box_id"])
    began = time.monotonic()
    while time.monotonic() - began < 3.0:
        box.run("true")
        time.sleep(0.2)
    now = daemon.get(box.box)
    assert (now["status"], now["run_id"]) == ("running", row["run_id"])  # a box that was stopped would be up again
    assert daemon.wait_status(box.box, "stopped")["stop_cause"] == "auto_stop"


def test_what_its_idle_time_has_stopped_resumes_for_an_exec_unless_it_may_not(daemon: Daemon) -> None:
    resumes, stays = (Commands(daemon, daemon.run(auto_stop=1, auto_resume=may)["box_id"]) for may in (True, False))
    for box in (resumes, stays):
        assert daemon.wait_status(box.box, "stopped")["stop_cause"] == "auto_stop"
    resumes.run("true")
    assert "auto_resume is false" in stays.refused(409, "stopped", "true")
    assert daemon.get(stays.box)["status"] == "stopped"
    daemon.client.start(stays.box)
    stays.run("true")


def test_a_shim_that_does_not_answer_is_not_stopped_as_idle(daemon: Daemon) -> None:
    box = Commands(daemon, daemon.run(auto_stop=1)["box_id"])
    execution = box.exec("sleep", "987654")
    shim = daemon.get(box.box)["pid"]
    with impatient(daemon):
        signal_pid(shim, signal.SIGSTOP)
        try:
            until(lambda: daemon.log_text().count("not known whether") > 1, "it was asked, left alone, and asked again")
            assert daemon.get(box.box)["status"] == "running"
        finally:
            signal_pid(shim, signal.SIGCONT)
    assert box.info(execution)["status"] == "running"
