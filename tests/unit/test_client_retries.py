"""Promises of the client about a daemon that goes away: what has a key is repeated, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from boxlited import errors
from boxlited.client import AsyncClient, Client, ConnectionLost, NoDaemon, calls, flows
from boxlited.client.errors import connection_lost, no_daemon
from boxlited.client.flows import Pause
from tests.unit import fake_daemon
from tests.unit.client_kinds import WEB, with_a_box
from tests.unit.fake_daemon import CUT, FakeDaemon, problem

LOST, ABSENT = connection_lost("POST /v1/boxes", "it broke"), no_daemon("/x")
BUSY = errors.EngineUnavailable("the daemon stops")
KEYED = calls.create({}, "key")
fake = with_a_box(fake_daemon.serving)


class Walk:
    """Does the steps of a flow with a clock of its own: each call ends as the script says."""

    def __init__(self, flow: Any, script: Iterator[Any]) -> None:
        self.now, self.sent = 0.0, 0
        self._flow, self._script = flow, script

    def end(self) -> Any:
        try:
            step = next(self._flow)
            while True:
                if isinstance(step, Pause):
                    self.now += step.seconds
                    step = next(self._flow)
                    continue
                self.sent += 1
                answer = next(self._script)
                step = self._flow.throw(answer) if isinstance(answer, Exception) else self._flow.send(answer)
        except StopIteration as end:
            return end.value


def walk(call: calls.Call[Any], script: Iterator[Any], retry_seconds: float = 30.0) -> Walk:
    made = Walk(None, script)
    made._flow = flows.asked(call, retry_seconds, lambda: made.now)
    return made


def forever(failure: Exception) -> Iterator[Exception]:
    while True:
        yield failure


@pytest.mark.parametrize("failures", [[LOST], [ABSENT], [BUSY], [LOST, ABSENT, ABSENT, BUSY]])
def test_what_has_a_key_is_repeated_until_it_is_answered(failures: list[Exception]) -> None:
    steps = walk(KEYED, iter([*failures, "box"]))
    assert steps.end() == "box"
    assert steps.sent == len(failures) + 1


@pytest.mark.parametrize(
    ("script", "bound"),
    [
        (lambda: forever(LOST), 30.0),
        (lambda: forever(ABSENT), flows.ABSENT_SECONDS),
        (lambda: forever(BUSY), flows.BUSY_SECONDS),
        (lambda: iter([LOST, *[ABSENT] * 1000]), 30.0),
    ],
)
def test_patience_ends(script: Callable[[], Iterator[Exception]], bound: float) -> None:
    steps = walk(KEYED, script())
    with pytest.raises(errors.BoxlitedError):
        steps.end()
    assert bound / 3 < steps.now <= bound


@pytest.mark.parametrize("failure", [errors.InvalidArgument("x"), errors.Internal("x"), errors.Timeout("x")])
def test_an_answer_is_an_answer(failure: Exception) -> None:
    steps = walk(KEYED, forever(failure))
    with pytest.raises(type(failure)):
        steps.end()
    assert steps.sent == 1


@pytest.mark.parametrize("failure", [LOST, ABSENT, BUSY])
def test_what_has_no_key_is_sent_once(failure: Exception) -> None:
    for call in (calls.start("web"), calls.get("web"), calls.signal_execution("web", "e", 15)):
        steps = walk(call, forever(failure))
        with pytest.raises(type(failure)):
            steps.end()
        assert steps.sent == 1


def test_no_patience_is_no_repeat() -> None:
    steps = walk(KEYED, forever(LOST), retry_seconds=0)
    with pytest.raises(ConnectionLost):
        steps.end()
    assert steps.sent == 1


# ---- over a real socket


async def _of_async(fake: FakeDaemon, method: str, *args: Any) -> Any:
    async with AsyncClient(fake.socket) as client:
        return await getattr(client, method)(*args)


def _of_sync(fake: FakeDaemon, method: str, *args: Any) -> Any:
    with Client(fake.socket) as client:
        return getattr(client, method)(*args)


@pytest.fixture(params=["sync", "trio", "asyncio"])
def ask(fake: FakeDaemon, request: pytest.FixtureRequest) -> Callable[..., Any]:
    if request.param == "sync":
        return lambda *given: _of_sync(fake, *given)
    return lambda *given: anyio.run(_of_async, fake, *given, backend=request.param)


@pytest.mark.parametrize(("method", "args", "path"), [
    ("create", ({"name": "new"},), "/v1/boxes"), ("exec", ("web", "true"), "/v1/boxes/web/exec"),
])  # fmt: skip
def test_a_create_or_exec_whose_answer_was_lost_takes_effect_once(
    fake: FakeDaemon, ask: Callable[..., Any], method: str, args: tuple[Any, ...], path: str
) -> None:
    endings = [(200, [b'{"bo', CUT]), problem(503, "engine_unavailable", "stops")]
    asked: list[Any] = []

    def answer(request: Any) -> Any:
        asked.append(request)
        if endings:
            return endings.pop(0)
        return 201, {"answer": len(asked)}

    fake.replies["POST", path] = answer
    assert ask(method, *args) == {"answer": 3}
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert asked[0].body == asked[2].body


def test_two_creates_have_two_keys(fake: FakeDaemon, ask: Callable[..., Any]) -> None:
    for _ in range(2):
        ask("create", {})
    keys = [request.headers["idempotency-key"] for request in fake.requests]
    assert len(set(keys)) == 2


def test_a_stop_whose_answer_was_lost_is_not_repeated(fake: FakeDaemon, ask: Callable[..., Any]) -> None:
    fake.replies["POST", "/v1/boxes/web/stop"] = (200, [b"{", CUT])
    with pytest.raises(ConnectionLost):
        ask("stop", "web")
    assert len(fake.requests) == 1


def test_a_daemon_that_comes_up_meanwhile_gets_the_call(tmp_path: Path) -> None:
    """It listens only after the first attempt has found nobody."""
    path = tmp_path / "late.sock"
    began, done = threading.Event(), threading.Event()
    seen: list[FakeDaemon] = []

    def come_up() -> None:
        began.wait(10)
        with fake_daemon.serving(path) as daemon:
            seen.append(daemon)
            done.wait(10)

    class Watched(Client):
        def _run(self, flow: Any, perform: Any = None) -> Any:
            def attempt(call: Any) -> Any:
                try:
                    return self._transport.request(call)
                except NoDaemon:
                    began.set()
                    raise

            return super()._run(flow, attempt)

    thread = threading.Thread(target=come_up)
    thread.start()
    try:
        with Watched(path) as client:
            assert client.create({"name": "web"})["name"] == "web"
        assert len(seen[0].requests) == 1
    finally:
        began.set()
        done.set()
        thread.join()


# ---- the asynchronous client otherwise


async def _streams(fake: FakeDaemon) -> None:
    fake.logs[WEB] = [b"one\n", b"two\n"]
    fake.replies["GET", "/v1/metrics"] = (200, {"events_last_seq": 2})
    fake.replies["GET", "/v1/events"] = (200, [b'data: {"seq":1,"kind":"a"}\n\ndata: {"seq":2,"kind":"b"}\n\n'])
    async with AsyncClient(fake.socket, token="secret") as client:
        async with await client.logs("web") as stream:
            assert b"".join([chunk async for chunk in stream]) == b"one\ntwo\n"
        async with await client.events(follow=False) as events:
            assert [event["kind"] async for event in events] == ["a", "b"]
        assert [box["name"] for box in await client.list(page_size=1)] == ["web"]
        with pytest.raises(errors.NotFound) as raised:
            await client.get("nobody")
        assert raised.value.__notes__ == ["request req-1"]
        with pytest.raises(errors.Timeout):
            await client.wait("web", 0.0)
        fake.logs[WEB] = [b"one\n", CUT]
        async with await client.logs("web") as stream:
            assert await anext(stream) == b"one\n"
            with pytest.raises(ConnectionLost):
                await anext(stream)
    assert fake.requests[0].headers["authorization"] == "Bearer secret"


async def _cancelled(fake: FakeDaemon) -> None:
    gate = threading.Event()
    fake.replies["POST", "/v1/boxes/web/stop"] = lambda _: (gate.wait(10), (200, {}))[1]
    async with AsyncClient(fake.socket) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.stop("web")
        assert scope.cancelled_caught
        assert (await client.get("web"))["name"] == "web"
    gate.set()


async def _nobody(fake: FakeDaemon) -> None:
    async with AsyncClient(fake.socket.parent / "none", retry_seconds=0) as client:
        with pytest.raises(NoDaemon):
            await client.list()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("work", [_streams, _cancelled, _nobody])
def test_the_asynchronous_client_streams_waits_and_is_cancelled(fake: FakeDaemon, backend: str, work: Any) -> None:
    anyio.run(work, fake, backend=backend)
