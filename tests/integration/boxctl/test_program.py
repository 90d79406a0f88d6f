"""Promises of boxctl as a process of its own: signals, terminals, pipes that break, the shell's completion."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time

import pytest

from tests.integration.boxctl.programs import DB, SECONDS, WEB, boxctl, program
from tests.unit import fake_daemon
from tests.unit.fake_daemon import FakeDaemon


@pytest.mark.parametrize("columns", [60, 200])
def test_ps_fits_the_terminal_in_a_real_process(fake: FakeDaemon, columns: int) -> None:
    for number in range(3):
        fake.add(f"box{number}aaaaaaaaaaaa", "n" * 63, "failed", failure_reason="because " * 40)
    done = subprocess.run(
        program("ps"), check=False, capture_output=True, text=True, timeout=SECONDS,
        env={**os.environ, "COLUMNS": str(columns)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 4
    assert max(map(len, lines)) <= columns


def _until(condition, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_stops_the_box_and_a_second_one_kills_it(fake: FakeDaemon, interrupts: int) -> None:
    box_id, gate = "aaaaaaaaaaaaaaaa", threading.Event()
    verb = "stop" if interrupts == 1 else "kill"
    ended = {"status": "stopped", "exit_code": 143 if interrupts == 1 else 137, "stop_cause": "user"}

    def end(_: fake_daemon.Request):
        fake.boxes[box_id].update(ended)
        gate.set()
        return 200, fake.boxes[box_id]

    fake.replies["POST", f"/v1/boxes/{box_id}/{verb}"] = end
    if interrupts == 2:
        fake.replies["POST", f"/v1/boxes/{box_id}/stop"] = lambda _: (gate.wait(SECONDS), (200, {}))[1]
    fake.replies["POST", f"/v1/boxes/{box_id}/wait"] = lambda _: (200, fake.boxes[box_id])
    fake.logs[box_id] = [b"up\n", gate]
    with subprocess.Popen(program("run", "sleep", "60"), stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            child.send_signal(signal.SIGINT)
            _until(lambda: ("POST", f"/v1/boxes/{box_id}/stop") in fake.calls())
            if interrupts == 2:
                child.send_signal(signal.SIGINT)
            assert child.wait(SECONDS) == ended["exit_code"]
        finally:
            child.kill()
    assert ("POST", f"/v1/boxes/{box_id}/{verb}") in fake.calls()


def test_a_third_ctrl_c_waits_no_longer(fake: FakeDaemon) -> None:
    box_id, gate = "aaaaaaaaaaaaaaaa", threading.Event()
    for verb in ("stop", "kill"):
        fake.replies["POST", f"/v1/boxes/{box_id}/{verb}"] = lambda _: (gate.wait(SECONDS), (200, {}))[1]
    fake.logs[box_id] = [b"up\n", gate]
    with subprocess.Popen(program("run", "sleep", "60"), stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            for verb in ("stop", "kill"):
                child.send_signal(signal.SIGINT)
                _until(lambda verb=verb: ("POST", f"/v1/boxes/{box_id}/{verb}") in fake.calls())
            child.send_signal(signal.SIGINT)
            assert child.wait(SECONDS) == 130
        finally:
            gate.set()
            child.kill()


def test_logs_on_a_terminal_keep_colours_and_lose_tricks(fake: FakeDaemon) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"\x1b[31mred\x1b[0m \x1b[2J\x1b]0;t\x07 end"]
    parent, child_end = pty.openpty()
    try:
        done = subprocess.run(program("logs", "web"), check=False, stdout=child_end, timeout=SECONDS)
        shown = os.read(parent, 65536)
    finally:
        os.close(parent)
        os.close(child_end)
    assert done.returncode == 0
    assert shown == b"\x1b[31mred\x1b[0m \\x1b[2J\\x1b]0;t\\x07 end\x1b[0m"


def test_a_reader_that_leaves_early_is_no_error_message(fake: FakeDaemon) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"x" * 1000 + b"\n"] * 2000
    with subprocess.Popen(program("logs", "web"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(SECONDS) == 1


def test_ctrl_c_ends_quietly_with_130(fake: FakeDaemon) -> None:
    gate = threading.Event()
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"up\n", gate]
    with subprocess.Popen(program("logs", "-f", "web"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
        assert child.stderr.read() == b""
    gate.set()


def completed(line: str) -> set[str]:
    """What the shell would be offered."""
    environment = {
        **os.environ, "_BOXCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1),
    }  # fmt: skip
    done = subprocess.run(program(), check=False, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_shell_completes_commands_and_names_of_boxes(fake: FakeDaemon) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db")
    assert completed("boxctl st") == {"start", "stop", "stats"}
    assert completed("boxctl stop w") == {"web", WEB}


def test_the_shell_completes_boxes_and_running_commands(fake: FakeDaemon) -> None:
    fake.add(WEB, "web")
    boxctl("exec", "-d", "web", "sleep", "987654")
    assert completed("boxctl exec w") == {"web", WEB}
    assert completed("boxctl attach web e") == {"e1"}
    assert completed("boxctl execut") == {"executions"}
