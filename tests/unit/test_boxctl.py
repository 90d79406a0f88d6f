"""Promises of boxctl against a small real daemon on a real socket: words, exit codes, streams."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from boxlited import __version__
from boxlited.cli import boxctl, follow
from tests.unit import fake_daemon
from tests.unit.fake_daemon import CUT, FakeDaemon, problem

WEB, DB = "webaaaaaaaaaaaaa", "dbbbbbbbbbbbbbbb"
SECONDS = 30


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("BOXLITED_SOCKET", str(tmp_path / "d.sock"))
    monkeypatch.delenv("BOXLITED_URL", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    with fake_daemon.serving(tmp_path / "d.sock") as daemon:
        yield daemon


@pytest.fixture
def run(fake: FakeDaemon, capfd: pytest.CaptureFixture[str]):
    """boxctl in this process."""

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            boxctl.main(list(arguments))
        captured = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return call


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "boxlited.cli.boxctl", *arguments]


# ---- looking


def test_ps_shows_every_box_and_the_failed_ones_too(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web", pid=12)
    fake.add(DB, "db", "failed", failure_reason="out of memory", exit_code=137)
    result = run("ps")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == ["NAME", "web", "db"]
    assert "webaaaaa" in result.out
    assert "out of memory" in result.out


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


def test_ps_quiet_prints_ids_that_other_commands_take(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    assert run("ps", "-q").out == "webaaaaa\n"
    assert run("ps", "-q", "--no-trunc").out == f"{WEB}\n"
    assert run("stop", "webaaaaa").code == 0


def test_ps_can_show_one_state_and_json(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db", "failed")
    boxes = json.loads(run("ps", "--status", "failed", "--format", "json").out)
    assert [box["name"] for box in boxes] == ["db"]
    assert run("ps", "--status", "dead").code == 2


def test_names_and_reasons_cannot_reach_the_terminal_raw(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web\x1b[2J", "failed", failure_reason="\x1b]0;owned\x07\nfake line")
    for arguments in (["ps"], ["inspect", WEB], ["ps", "--format", "json"]):
        result = run(*arguments)
        assert "\x1b" not in result.out
        assert "\x07" not in result.out
    assert len(run("ps").out.splitlines()) == 2


def test_inspect_prints_an_array_and_complains_of_what_is_missing(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    result = run("inspect", "web", "nobody")
    assert [box["name"] for box in json.loads(result.out)] == ["web"]
    assert result.code == 1
    assert "nobody" in result.err


def test_crash_prints_the_report(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web", "failed")
    fake.replies["GET", "/v1/boxes/web/crash"] = (
        200, {"user_message": "killed by SIGSEGV\x1b[2J", "debug_info": "tail:\n\tx", "error_kind": None},
    )  # fmt: skip
    assert run("crash", "web").out == "killed by SIGSEGV\\x1b[2J\n\ntail:\n\tx\n"
    shown = run("crash", "--format", "json", "web").out
    assert "\x1b" not in shown
    assert json.loads(shown) == fake.replies["GET", "/v1/boxes/web/crash"][1]


def test_a_box_without_a_crash_says_so(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    result = run("crash", "web")
    assert result.code == 1
    assert "has not crashed" in result.err
    assert run("crash", "nobody").code == 3


# ---- changing


def test_a_warning_of_the_daemon_about_what_it_did_is_shown(fake: FakeDaemon, run) -> None:
    box = fake.add("a" * 16, "web")
    stopped = {**box, "status": "stopped", "warning": "its newest state is not on the disk"}
    fake.replies["POST", "/v1/boxes/web/stop"] = 200, stopped
    result = run("stop", "web")
    assert (result.code, result.out) == (0, "web\n")
    assert "warning: box web: its newest state is not on the disk" in result.err


def test_several_boxes_are_each_done_or_complained_of(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db")
    result = run("stop", "web", "nobody", "db")
    assert result.code == 1
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


# ---- running


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


# ---- streams


def test_logs_go_to_a_pipe_as_they_are(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"\x1b[2Jx\n"]
    assert run("logs", "-n", "3", "--since", "10m", "web").out == "\x1b[2Jx\n"
    assert fake.requests[-1].query["tail"] == "3"
    assert abs(float(fake.requests[-1].query["since"]) - (time.time() - 600)) < 60


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


def test_a_followed_log_goes_on_after_the_daemon_was_away(fake: FakeDaemon, run) -> None:
    box = fake.add(WEB, "web")
    last = [b"one\ntwo\nthree\nfour\n"]
    bodies = [[b"one\ntw", CUT], [b"one\n", b"two\nthr"], [b"one\ntwo\nthree\n"], last]

    def logs(_: fake_daemon.Request):
        body = bodies.pop(0)
        if bodies == [last]:  # it ends while the daemon is away, after its last words
            box["status"] = "stopped"
        return 200, body

    fake.replies["GET", f"/v1/boxes/{WEB}/logs"] = logs
    assert run("logs", "-f", "web") == Result(0, "one\ntwo\nthree\nfour\n", "")
    assert bodies == []


def test_a_log_that_is_not_followed_and_breaks_is_an_error(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"one\n", CUT]
    result = run("logs", "web")
    assert result.code == 1
    assert result.out == "one\n"
    assert result.err.startswith("boxctl: ")


def test_patience_with_a_daemon_that_is_away_is_bounded(fake: FakeDaemon, run, monkeypatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(follow, "PAUSE_SECONDS", 0.01)
    fake.add(WEB, "web")
    fake.replies["POST", "/v1/boxes/web/wait"] = (200, [b"{", CUT])
    assert run("wait", "web").code == 1


def test_wait_prints_the_code_and_ends_with_it(fake: FakeDaemon, run) -> None:
    box = fake.add(WEB, "web", "stopped", exit_code=7)
    fake.replies["POST", "/v1/boxes/web/wait"] = (200, box)
    assert run("wait", "web") == Result(7, "7\n", "")


def test_events_are_lines_or_json_lines(fake: FakeDaemon, run) -> None:
    events = [{"seq": n, "at": 0, "kind": "started", "name": "we\x1bb", "data": {}} for n in (4, 5)]
    body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    fake.replies["GET", "/v1/events"] = (200, [body])
    fake.replies["GET", "/v1/metrics"] = (200, {"events_last_seq": 5})
    lines = run("events", "--since", "3", "--no-follow").out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("4  ")
    assert "we\\x1bb" in lines[0]
    shown = run("events", "--since", "3", "--no-follow", "--format", "json").out.splitlines()
    assert [json.loads(line) for line in shown] == events
    assert fake.requests[-1].query == {"since": "3"}


def test_events_go_on_after_the_last_number_that_was_seen(fake: FakeDaemon, run) -> None:
    bodies = {"0": [b'data: {"seq":1,"kind":"a"}\n\n', CUT], "1": [b'data: {"seq":2,"kind":"b"}\n\n']}

    def events(request: fake_daemon.Request):
        since = request.query.get("since")
        if since == "2":
            return problem(500, "internal", "enough")
        return 200, bodies[since]

    fake.replies["GET", "/v1/metrics"] = (200, {"events_last_seq": 0})
    fake.replies["GET", "/v1/events"] = events
    result = run("events", "--format", "json")
    assert [json.loads(line)["seq"] for line in result.out.splitlines()] == [1, 2]
    assert "enough" in result.err


def test_stats_shows_running_boxes_and_leaves_out_one_that_just_ended(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db")
    fake.replies["GET", f"/v1/boxes/{WEB}/metrics"] = (200, {"cpu_percent": 12.34, "memory_bytes": 3 * 1024**2})
    fake.replies["GET", f"/v1/boxes/{DB}/metrics"] = problem(409, "stopped", "box db is stopped")
    lines = run("stats", "--no-stream").out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:4] == ["web", "webaaaaa", "12.3%", "3.0MiB"]
    assert run("stats", "--no-stream", "db").code == 1


# ---- the daemon


def test_reconcile_says_what_was_seen_and_done(fake: FakeDaemon, run) -> None:
    entries = [
        {"box_id": WEB, "name": "web", "status": "running", "identity": "verified", "action": "none"},
        {"box_id": DB, "name": "db", "status": "stopped", "identity": "absent", "action": "settle"},
    ]
    fake.replies["POST", "/v1/reconcile"] = (200, {"dry_run": True, "boxes": entries})
    result = run("reconcile", "--dry-run")
    assert result.out.splitlines()[-1] == "2 boxes looked at, 1 to act on"
    assert "settle" in result.out
    assert fake.requests[0].query == {"dry_run": "true"}


def test_version_tells_both_and_works_without_a_daemon(fake: FakeDaemon, run, monkeypatch) -> None:
    fake.replies["GET", "/v1/config"] = (200, {"version": "9.9"})
    assert run("version").out == f"boxctl    {__version__}\nboxlited  9.9\n"
    monkeypatch.setenv("BOXLITED_SOCKET", "/nonexistent/d.sock")
    result = run("version")
    assert result.code == 0
    assert "no daemon answers" in result.out


# ---- errors and exit codes


def test_no_such_box_is_3_and_hints_at_ps(run) -> None:
    result = run("start", "nobody")
    assert result.code == 3
    assert result.err == "boxctl: no box is called 'nobody'\n  hint: `boxctl ps` lists the boxes\n"


def test_no_daemon_is_4_and_says_how_to_start_one(run, monkeypatch) -> None:
    monkeypatch.setenv("BOXLITED_SOCKET", "/nonexistent/d.sock")
    for arguments in (["ps"], ["stop", "a", "b"], ["logs", "a"], ["events"], ["events", "--no-follow"]):
        result = run(*arguments)
        assert result.code == 4
        assert result.err == (
            "boxctl: no daemon answers on /nonexistent/d.sock\n"
            "  hint: start it with `make run` or `systemctl start boxlited`, or set BOXLITED_SOCKET\n"
        )


@pytest.mark.parametrize(
    "arguments",
    [["stop"], ["nonsense"], ["ps", "--nonsense"], ["run", "-m", "lots", "true"], ["kill", "-s", "NOPE", "x"],
     ["--url", "ftp://x", "ps"], ["logs", "--since", "yesterday", "x"],
     ["create", "--image", "host", "--rootfs", "/x"]],
)  # fmt: skip
def test_wrong_use_is_2_in_one_line(run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.err.startswith("boxctl: ")
    assert len(result.err.splitlines()) <= 2


def test_what_the_daemon_says_is_made_harmless(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes/web/start"] = problem(409, "invalid_state", "bad\x1b[2J\nboxctl: fine")
    result = run("start", "web")
    assert result.err.splitlines()[0] == "boxctl: bad\\x1b[2J\\x0aboxctl: fine"


def test_an_error_inside_the_daemon_says_which_request_to_look_for(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes/web/start"] = problem(500, "internal", "oops")
    result = run("start", "web")
    assert result.code == 1
    assert "journalctl -u boxlited` (request req-1)" in result.err


def test_a_bug_is_one_line_and_no_traceback(fake: FakeDaemon, run) -> None:
    fake.replies["GET", "/v1/boxes"] = (200, {"boxes": [{"box_id": 5}], "next_page_token": None})
    result = run("ps")
    assert result.code == 1
    assert result.err.startswith("boxctl: a bug in boxctl: ")


def test_no_arguments_show_the_help(run) -> None:
    result = run()
    assert result.code == 2
    assert "Commands:" in result.err
    assert run("--help").code == 0


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


def test_the_shell_completes_commands_and_names_of_boxes(fake: FakeDaemon) -> None:
    fake.add(WEB, "web")
    fake.add(DB, "db")
    for line, words in (("boxctl st", {"start", "stop", "stats"}), ("boxctl stop w", {"web", WEB})):
        environment = {
            **os.environ, "_BOXCTL_COMPLETE": "complete_bash", "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }  # fmt: skip
        done = subprocess.run(program(), check=False, capture_output=True, text=True, timeout=SECONDS, env=environment)
        assert set(done.stdout.split()) == words, done.stderr
