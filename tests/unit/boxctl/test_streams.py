"""Promises of boxctl about what goes on: logs, events, waiting, statistics."""

from __future__ import annotations

import json
import time

from boxlited.cli import follow
from tests.unit import fake_daemon
from tests.unit.boxctl.support import DB, WEB, Result
from tests.unit.fake_daemon import CUT, FakeDaemon, problem


def test_logs_go_to_a_pipe_as_they_are(fake: FakeDaemon, run) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"\x1b[2Jx\n"]
    assert run("logs", "-n", "3", "--since", "10m", "web").out == "\x1b[2Jx\n"
    assert fake.requests[-1].query["tail"] == "3"
    assert abs(float(fake.requests[-1].query["since"]) - (time.time() - 600)) < 60


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
