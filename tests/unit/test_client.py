"""Promises of the client library, kept against a real HTTP server on a unix socket."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited import errors
from boxlited.client import (
    Client,
    ConnectionLost,
    NoDaemon,
    default_socket,
)
from boxlited.client.sse import MAX_LINE_BYTES, Message, Parser
from tests.unit import fake_daemon
from tests.unit.fake_daemon import CUT, FakeDaemon, problem

WEB = "webaaaaaaaaaaaaa"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon.serving(tmp_path / "d.sock") as daemon:
        yield daemon


@pytest.fixture
def client(fake: FakeDaemon) -> Iterator[Client]:
    with Client(fake.socket) as opened:
        yield opened


def test_a_box_is_created_started_stopped_and_removed(fake: FakeDaemon, client: Client) -> None:
    box = client.create({"name": "web", "cmd": ["sleep", "9"]}, idempotency_key="key-1")
    assert client.start(box["box_id"])["status"] == "running"
    assert client.stop("web", 3)["exit_code"] == 143
    client.remove("web")
    with pytest.raises(errors.NotFound):
        client.get("web")
    create, _, stop = fake.requests[:3]
    assert create.headers["idempotency-key"] == "key-1"
    assert stop.body == {"timeout_seconds": 3}


@pytest.mark.parametrize(
    ("call", "method", "path", "body"),
    [
        (lambda c: c.restart("web", 5), "POST", "/v1/boxes/web/restart", {"timeout_seconds": 5}),
        (lambda c: c.kill("web", 15), "POST", "/v1/boxes/web/kill", {"signal": 15}),
        (lambda c: c.reset_failed("web"), "POST", "/v1/boxes/web/reset-failed", None),
        (lambda c: c.crash("web"), "GET", "/v1/boxes/web/crash", None),
        (lambda c: c.crash("web", previous=True), "GET", "/v1/boxes/web/crash/previous", None),
        (lambda c: c.box_metrics("web"), "GET", "/v1/boxes/web/metrics", None),
        (lambda c: c.metrics(), "GET", "/v1/metrics", None),
        (lambda c: c.config(), "GET", "/v1/config", None),
        (lambda c: c.me(), "GET", "/v1/me", None),
        (lambda c: c.health(), "GET", "/healthz", None),
    ],
)
def test_each_method_calls_its_route(fake: FakeDaemon, client: Client, call, method, path, body) -> None:
    fake.replies[method, path] = (200, {"answer": 42})
    assert call(client) == {"answer": 42}
    assert (fake.requests[0].method, fake.requests[0].path) == (method, path)
    assert fake.requests[0].body == body


def test_list_reads_every_page(fake: FakeDaemon, client: Client) -> None:
    for number in range(7):
        fake.add(f"box{number}aaaaaaaaaaaa", f"n{number}")
    assert [box["name"] for box in client.list(page_size=3)] == [f"n{i}" for i in range(7)]
    assert len(fake.requests) == 3


def test_list_can_ask_for_one_status(fake: FakeDaemon, client: Client) -> None:
    fake.add(WEB, "web", "failed")
    fake.add("dbbbaaaaaaaaaaaa", "db", "running")
    assert [box["name"] for box in client.list("failed")] == ["web"]


def test_reconcile_returns_the_entries_and_asks_for_a_dry_run(fake: FakeDaemon, client: Client) -> None:
    fake.replies["POST", "/v1/reconcile"] = (200, {"dry_run": True, "boxes": [{"action": "none"}]})
    assert client.reconcile(dry_run=True) == [{"action": "none"}]
    assert fake.requests[0].query == {"dry_run": "true"}


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_every_error_code_becomes_its_exception(fake: FakeDaemon, client: Client, code: str) -> None:
    kind = errors.BY_CODE[code]
    fake.replies["GET", "/v1/boxes/web"] = problem(kind.status, code, "because")
    with pytest.raises(kind) as raised:
        client.get("web")
    assert type(raised.value) is kind
    assert str(raised.value) == "because"
    assert raised.value.__notes__ == ["request req-1"]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"x"', b'{"error":5}', b'{"error":{"message":7,"code":[]}}', b"\xff"]
)
def test_a_strange_error_body_is_an_internal_error_that_names_the_call(
    fake: FakeDaemon, client: Client, body: bytes
) -> None:
    fake.replies["GET", "/v1/boxes/web"] = (500, body)
    with pytest.raises(errors.Internal, match=r"GET /v1/boxes/web.*500"):
        client.get("web")


def test_an_answer_that_is_not_json_is_an_internal_error(fake: FakeDaemon, client: Client) -> None:
    fake.replies["GET", "/v1/boxes/web"] = (200, b"hello")
    with pytest.raises(errors.Internal, match="not JSON"):
        client.get("web")


def test_a_missing_socket_says_what_to_start_and_what_to_set(tmp_path: Path) -> None:
    with Client(tmp_path / "none.sock") as client, pytest.raises(NoDaemon) as raised:
        client.list()
    assert str(raised.value) == (
        f"no daemon answers on {tmp_path}/none.sock: start it with `make run` or"
        " `systemctl start boxlited`, or set BOXLITED_SOCKET"
    )


def test_a_socket_that_nobody_listens_on_is_no_daemon(tmp_path: Path) -> None:
    with fake_daemon.serving(tmp_path / "d.sock"):
        pass
    assert (tmp_path / "d.sock").exists()
    with Client(tmp_path / "d.sock") as client, pytest.raises(NoDaemon):
        client.list()


def test_a_socket_path_that_is_too_long_is_a_clear_error(tmp_path: Path) -> None:
    with Client(tmp_path / ("x" * 200)) as client, pytest.raises(errors.BoxlitedError, match=r"x{200}"):
        client.list()


def test_a_connection_that_breaks_says_that_the_outcome_is_not_known(fake: FakeDaemon, client: Client) -> None:
    fake.replies["POST", "/v1/boxes/web/stop"] = (200, [b'{"box', CUT])
    with pytest.raises(ConnectionLost, match="not known"):
        client.stop("web")


@pytest.mark.parametrize("ref", ["", ".", ".."])
def test_a_ref_that_would_name_another_route_is_refused_here(fake: FakeDaemon, client: Client, ref) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.get(ref)
    assert fake.requests == []


@given(ref=st.text(min_size=1, max_size=40).filter(lambda s: s not in {".", ".."}))
def test_any_ref_is_one_segment_of_the_path(ref: str) -> None:
    from boxlited.client.calls import box_path as _box

    try:
        path = _box(ref, "start")
    except UnicodeEncodeError:
        return  # lone surrogates are no text
    assert path.count("/") == 4
    assert path.isascii()
    assert path.endswith("/start")


def test_a_token_goes_into_the_authorization_header(fake: FakeDaemon) -> None:
    fake.add(WEB, "web")
    with Client(fake.socket, token="secret") as client:
        client.get("web")
    assert fake.requests[0].headers["authorization"] == "Bearer secret"


# ---- waiting


def test_wait_polls_until_the_box_has_stopped(fake: FakeDaemon, client: Client) -> None:
    box = fake.add(WEB, "web")
    answers = [problem(504, "timeout", "still runs"), (200, box), (200, {**box, "status": "stopped"})]
    fake.replies["POST", "/v1/boxes/web/wait"] = lambda _: answers.pop(0)
    assert client.wait("web")["status"] == "stopped"
    assert answers == []


def test_wait_raises_timeout_at_its_own_deadline(fake: FakeDaemon, client: Client) -> None:
    fake.add(WEB, "web")
    fake.replies["POST", "/v1/boxes/web/wait"] = problem(504, "timeout", "still runs")
    with pytest.raises(errors.Timeout, match="still runs"):
        client.wait("web", 0.0)


# ---- streams


def test_logs_are_the_bytes_of_the_box_and_options_are_passed_on(fake: FakeDaemon, client: Client) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"one\n", b"\xff\x00two"]
    with client.logs("web", follow=True, tail=5, since=12.5) as stream:
        assert b"".join(stream) == b"one\n\xff\x00two"
    assert fake.requests[0].query == {"follow": "true", "tail": "5", "since": "12.500"}


def test_logs_of_no_box_fail_before_the_first_byte(client: Client) -> None:
    with pytest.raises(errors.NotFound):
        client.logs("nobody")


def test_a_followed_log_arrives_as_it_is_written(fake: FakeDaemon, client: Client) -> None:
    gate = threading.Event()
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"first\n", gate, b"second\n"]
    with client.logs("web", follow=True) as stream:
        chunks = iter(stream)
        assert next(chunks) == b"first\n"
        gate.set()
        assert next(chunks) == b"second\n"


def test_a_stream_can_be_left_early(fake: FakeDaemon, client: Client) -> None:
    gate = threading.Event()
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"first\n", gate]
    with client.logs("web", follow=True) as stream:
        assert next(iter(stream)) == b"first\n"
    gate.set()
    assert client.get("web")["name"] == "web"


def test_a_log_that_breaks_off_is_not_taken_for_complete(fake: FakeDaemon, client: Client) -> None:
    fake.add(WEB, "web")
    fake.logs[WEB] = [b"first\n", CUT]
    with client.logs("web") as stream, pytest.raises(ConnectionLost):
        list(stream)


def test_events_are_parsed_and_since_is_passed_on(fake: FakeDaemon, client: Client) -> None:
    fake.replies["GET", "/v1/events"] = (
        200,
        [
            b": hello\n\n",
            b'id: 8\nevent: started\ndata: {"seq":8,"kind":"star',
            b'ted","name":"web"}\n\n: heartbeat\n\n',
        ],
    )
    with client.events(since=7) as stream:
        assert list(stream) == [{"seq": 8, "kind": "started", "name": "web"}]
    assert fake.requests[0].query == {"since": "7"}


def test_events_without_follow_end_with_the_newest(fake: FakeDaemon, client: Client) -> None:
    gate = threading.Event()
    fake.replies["GET", "/v1/metrics"] = (200, {"events_last_seq": 2})
    fake.replies["GET", "/v1/events"] = (200, [b'data: {"seq":1,"kind":"a"}\n\ndata: {"seq":2,"kind":"b"}\n\n', gate])
    with client.events(follow=False) as stream:
        assert [event["kind"] for event in stream] == ["a", "b"]
    gate.set()
    with client.events(since=2, follow=False) as stream:
        assert list(stream) == []


# ---- Server-Sent Events, without I/O


def _messages(*chunks: bytes) -> list[Message]:
    parser = Parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


STREAM = b"\xef\xbb\xbf: c\r\nid: 1\r\nevent: a\r\ndata: x\r\ndata:y\r\n\r\nid: 2\rdata: z\r\rdata\n\nnothing\n\n"
PARSED = [Message("a", "x\ny", "1"), Message("message", "z", "2"), Message("message", "", "2")]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_messages_do_not_depend_on_how_the_bytes_were_cut(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(STREAM)]
    assert _messages(*(STREAM[a:b] for a, b in pairwise(points))) == PARSED


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_fail(noise: bytes) -> None:
    _messages(noise)


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        _messages(b"x" * (MAX_LINE_BYTES + 1))


# ---- the default socket


def test_the_environment_names_the_socket_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXLITED_SOCKET", "/x/y.sock")
    assert default_socket() == Path("/x/y.sock")


@pytest.mark.parametrize(
    ("uid", "runtime", "expected"),
    [
        (0, "/run/user/0", "/run/boxlited/boxlited.sock"),
        (1000, "/run/user/1000", "/run/user/1000/boxlited/boxlited.sock"),
        (1000, None, "/home/u/.local/share/boxlited/boxlited.sock"),
    ],
)
def test_the_default_socket_follows_the_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str | None, expected: str
) -> None:
    monkeypatch.delenv("BOXLITED_SOCKET", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert default_socket() == Path(expected)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("variables", [{}, {"XDG_RUNTIME_DIR": "/run/user/5", "XDG_DATA_HOME": "/data"}])
def test_client_daemon_and_doctor_look_in_the_same_places(
    monkeypatch: pytest.MonkeyPatch, uid: int, variables: dict[str, str]
) -> None:
    from boxlited import config
    from boxlited.cli import probes

    for name in ("BOXLITED_SOCKET", "BOXLITED_HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_socket() == config.default_socket()
    assert probes.home_path() == config.default_home()
