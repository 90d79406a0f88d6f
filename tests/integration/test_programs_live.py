"""`boxctl` and `boxlited drain` against the real daemon: what a user types, sees, and gets as an exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemon_harness import FOREVER, Daemon, is_alive
from tests.integration.programs import DEAF, END_SECONDS, PROGRAM, boxlited

BOXCTL = [sys.executable, "-m", "boxlited.cli.boxctl"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon() as one:
        yield one.start()


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    for box in shared.client.list():
        shared.client.remove(box["box_id"], force=True)


def start(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*BOXCTL, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "BOXLITED_SOCKET": str(daemon.socket)},
    )  # fmt: skip


def boxctl(daemon: Daemon, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output, complaints."""
    process = start(daemon, *arguments)
    try:
        out, err = process.communicate(timeout=END_SECONDS)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, out, err


def ok(daemon: Daemon, *arguments: str) -> str:
    code, out, err = boxctl(daemon, *arguments)
    assert (code, err) == (0, "")
    return out


# ---- boxctl


def test_a_box_from_run_to_rm(daemon: Daemon) -> None:
    box_id = ok(daemon, "run", "-d", "--name", "web", "-l", "tier=front", "--", *FOREVER).strip()
    listed = json.loads(ok(daemon, "ps", "--format", "json"))
    assert [(box["box_id"], box["name"], box["status"]) for box in listed] == [(box_id, "web", "running")]
    (inspected,) = json.loads(ok(daemon, "inspect", "web"))
    assert inspected["labels"] == {"tier": "front"}
    assert is_alive(inspected["pid"])
    header, row = ok(daemon, "ps").splitlines()
    assert header.split()[:3] == ["NAME", "ID", "STATUS"]
    assert row.split()[:3] == ["web", box_id[:8], "running"]
    assert ok(daemon, "ps", "-q").strip() == box_id[:8]
    code, _, err = boxctl(daemon, "rm", "web")
    assert code == 1
    assert "hint" in err
    assert ok(daemon, "stop", "-t", "1", box_id[:8]).strip() == box_id[:8]
    assert json.loads(ok(daemon, "ps", "--status", "stopped", "--format", "json"))[0]["stop_cause"] == "user"
    assert ok(daemon, "start", "web").strip() == "web"
    assert json.loads(ok(daemon, "stats", "--no-stream", "--format", "json"))[0]["box_id"] == box_id
    ok(daemon, "rm", "-f", "web")
    assert json.loads(ok(daemon, "ps", "--format", "json")) == []
    assert not daemon.box_dir(box_id).exists()
    assert boxctl(daemon, "inspect", "web")[0] == 3


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        (["sh", "-c", "echo out; echo err >&2; exit 7"], 7, "out\nerr\n"),
        (["true"], 0, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["/no/such/program"], 127, ""),
        (["/etc/passwd"], 126, ""),
    ],
)
def test_run_shows_and_ends_as_the_box_does(daemon: Daemon, command: list[str], code: int, out: str) -> None:
    returned, shown, _ = boxctl(daemon, "run", "--rm", "--", *command)
    assert (returned, shown) == (code, out)
    assert daemon.client.list() == []


def test_ctrl_c_on_run_stops_the_box(daemon: Daemon) -> None:
    process = start(daemon, "run", "--name", "mine", "--", "sh", "-c", "trap 'exit 5' TERM; echo up; sleep 99 & wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=END_SECONDS)[0] == ""
    assert daemon.get("mine")["status"] == "stopped"
    assert process.returncode == 5


def test_run_that_is_killed_leaves_the_box(daemon: Daemon) -> None:
    process = start(daemon, "run", "--name", "mine", "--", "sh", "-c", "echo up; sleep 99")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate(timeout=END_SECONDS)
    assert is_alive(daemon.get("mine")["pid"])


def test_followed_logs_come_as_they_are_written_and_end_with_the_box(daemon: Daemon) -> None:
    daemon.run(["sh", "-c", "echo one; read line < /tmp/go; echo two"], name="talker", volumes=[shared_tmp(daemon)])
    process = start(daemon, "logs", "-f", "talker")
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    with (daemon.root / "tmp" / "go").open("w") as gate:
        gate.write("\n")
    out, err = process.communicate(timeout=END_SECONDS)
    assert (process.returncode, out, err) == (0, "two\n", "")
    assert ok(daemon, "logs", "-n", "1", "talker") == "two\n"


def shared_tmp(daemon: Daemon) -> dict[str, object]:
    """A directory of the box that holds the FIFO `go`."""
    directory = daemon.root / "tmp"
    directory.mkdir(exist_ok=True)
    os.mkfifo(directory / "go")
    return {"host_path": str(directory), "guest_path": "/tmp", "read_only": False}


def test_wait_ends_with_the_exit_code_of_the_box(daemon: Daemon) -> None:
    daemon.run(["sh", "-c", "exit 3"], name="short")
    assert boxctl(daemon, "wait", "short") == (3, "3\n", "")
    daemon.run(name="long")
    code, out, err = boxctl(daemon, "wait", "--timeout", "0.2", "long")
    assert (code, out) == (1, "")
    assert "still runs" in err


def test_crash_says_why_and_reset_failed_forgets(daemon: Daemon) -> None:
    daemon.run(["sh", "-c", "kill -SEGV $$"], name="faulty")
    daemon.wait_status("faulty", "failed")
    assert "SIGSEGV" in ok(daemon, "crash", "faulty")
    assert "SIGSEGV" in ok(daemon, "ps", "--no-trunc")
    ok(daemon, "reset-failed", "faulty")
    assert daemon.get("faulty")["status"] == "stopped"
    daemon.run(name="well")
    code, _, err = boxctl(daemon, "crash", "well")
    assert code == 1
    assert "running" in err


def test_events_and_reconcile_are_shown(daemon: Daemon) -> None:
    box = daemon.run(name="seen")
    before = int(daemon.client.metrics()["events_last_seq"])
    daemon.client.stop(box["box_id"])
    kinds = [json.loads(line)["kind"] for line in ok(daemon, "events", "--since", str(before), "--no-follow",
                                                    "--format", "json").splitlines()]  # fmt: skip
    assert kinds == ["stopping", "stopped"]
    assert "1 box looked at, 0 to act on" in ok(daemon, "reconcile", "--dry-run")


def test_a_list_of_several_pages_is_whole(daemon: Daemon) -> None:
    names = [daemon.create(name=f"page-{number}")["name"] for number in range(7)]
    assert [box["name"] for box in daemon.client.list(page_size=2)] == names


@pytest.mark.parametrize("command", [["ps"], ["run", "true"], ["logs", "x"], ["rm", "x"], ["events"]])
def test_without_a_daemon_it_says_what_to_do(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [*BOXCTL, "--socket", str(tmp_path / "none"), *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=END_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == (125 if command[0] == "run" else 4)
    assert done.stdout == ""
    complaint, hint = done.stderr.splitlines()
    assert str(tmp_path / "none") in complaint
    assert "systemctl start boxlited" in hint


# ---- drain


def test_drain_stops_every_box_and_says_so(daemon: Daemon) -> None:
    names = {daemon.run(name=f"box-{number}", restart={"policy": "always"})["name"] for number in range(3)}
    daemon.create(name="never-started")
    done = boxlited("drain", "--socket", daemon.socket)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[-1] == "3 of 3 boxes stopped"
    assert [line.split("]")[0] for line in lines[:-1]] == ["[1/3", "[2/3", "[3/3"]
    assert {line.split("] ")[1].removesuffix(": stopped") for line in lines[:-1]} == names
    assert daemon.shims() == []
    assert boxlited("drain", "--socket", daemon.socket).stdout == "0 of 0 boxes stopped\n"


def test_drain_goes_on_although_nobody_reads_and_forces_the_deaf(daemon: Daemon) -> None:
    for command in (DEAF, FOREVER, FOREVER):
        daemon.run(command)
    reading, writing = os.pipe()
    os.close(reading)
    argv = [*PROGRAM, "drain", "--socket", str(daemon.socket), "--timeout", "0.2"]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, timeout=END_SECONDS, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
    assert daemon.shims() == []


def test_drain_without_a_daemon_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    for path in (tmp_path / "none", tmp_path / "dead"):
        done = boxlited("drain", "--socket", path)
        assert done.returncode == 4
        assert str(path) in done.stderr
        assert "systemctl start boxlited" in done.stderr
