"""Promises of the commands of boxctl that look: at boxes, at the daemon, at what was done."""

from __future__ import annotations

import json

from boxlited import __version__
from tests.unit.boxctl.support import DB, WEB
from tests.unit.fake_daemon import FakeDaemon


def test_ps_shows_every_box_and_the_failed_ones_too(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web", pid=12)
    fake.add(DB, "db", "failed", failure_reason="out of memory", exit_code=137)
    result = run("ps")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == ["NAME", "web", "db"]
    assert "webaaaaa" in result.out
    assert "out of memory" in result.out


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
    assert run("inspect", "--format", "json", "web").out == run("inspect", "web").out
    result = run("inspect", "web", "nobody")
    assert [box["name"] for box in json.loads(result.out)] == ["web"]
    assert result.code == 3
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
    assert run("--version").out == f"boxctl {__version__}\n"
    assert run("version").out == f"boxctl    {__version__}\nboxlited  9.9\n"
    monkeypatch.setenv("BOXLITED_SOCKET", "/nonexistent/d.sock")
    result = run("version")
    assert result.code == 0
    assert "no daemon answers" in result.out
