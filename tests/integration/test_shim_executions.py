"""Executions and their streams, with a real loop and real processes: nothing is lost unsaid, nothing hangs for ever."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxlited.shim import executions
from boxlited.shim.control import Connection
from boxlited.shim.executions import KEPT_BYTES, RING_BYTES
from boxlited.shim.frames import OFFSET, Kind, frame
from boxlited.shim.guest import Command
from boxlited.shim.requests import MAX_ENDED, MAX_UNTOLD, UNTOLD_SECONDS, Requests
from boxlited.shim.workload import Workload
from tests.integration.shim_commands import executing
from tests.unit.shim_support import Client, Served, turn, turn_until

SPEC = {"engine": "sandbox", "env": {}, "hostname": "h", "working_dir": None, "user": None, "rootfs": {"kind": "host"}}
WORKLOAD = cast(Workload, None)  # whoever enters the box is tested with the real one


class Channel:
    """A served channel whose requests are the real ones."""

    def __init__(self, directory: Path) -> None:
        self.served = Served(directory, self._handle)
        self.loop = self.served.loop
        self.requests = Requests(SPEC, WORKLOAD, self.loop)

    def _handle(self, connection: Connection, kind: int, payload: bytes) -> None:
        self.requests.handle(connection, kind, payload)

    def ask(self, client: Client, **request: Any) -> dict[str, Any]:
        client.send(frame(Kind.REQUEST, json.dumps(request).encode()))
        found = client.frames()
        assert [kind for kind, _payload in found[:1]] == [Kind.REPLY]
        client.later = found[1:]  # type: ignore[attr-defined]
        return dict(json.loads(found[0][1]))


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    one = Channel(tmp_path)
    yield one
    one.served.close()


class Reader:
    """An attached client that acknowledges what it has read, unless told not to."""

    def __init__(self, channel: Channel, **request: Any) -> None:
        self.client = channel.served.connect()
        reply = channel.ask(self.client, op="attach", execution_id="exec-1", **request)
        assert reply["ok"], reply
        self.start: int = reply["position"]
        self.output = b""
        self.notices: list[str] = []
        self.exit: dict[str, Any] | None = None
        self._take(self.client.later)  # type: ignore[attr-defined]

    def _take(self, frames: list[tuple[int, bytes]]) -> None:
        for kind, payload in frames:
            if kind in (Kind.STDOUT, Kind.STDERR):
                self.output += payload
            elif kind == Kind.NOTICE:
                self.notices.append(payload.decode())
            elif kind == Kind.EXIT:
                self.exit = json.loads(payload)

    def read(self) -> None:
        self._take(self.client.frames())

    def acknowledge(self) -> None:
        self.client.send(frame(Kind.ACK, OFFSET.pack(self.start + len(self.output))))

    def finish(self) -> None:
        end = time.monotonic() + 20
        while self.exit is None:
            assert time.monotonic() < end, f"no exit after {len(self.output)} bytes"
            self.read()
            self.acknowledge()


def attachable(channel: Channel, execution: executions.Execution) -> None:
    channel.requests._executions[execution.id] = execution


NUMBERS = "i=0; while [ $i -lt 40000 ]; do echo 0000000000000000000000000000000000000000000$i; i=$((i+1)); done"


def numbers(count: int = 40000) -> bytes:
    return b"".join(b"%043d%d\n" % (0, number) for number in range(count))


def test_output_of_a_command_that_is_read_is_whole(channel: Channel) -> None:
    with executing(channel.loop, NUMBERS) as execution:
        attachable(channel, execution)
        reader = Reader(channel)
        reader.finish()
    assert reader.output == numbers()
    assert reader.notices == []
    assert reader.exit is not None
    assert (reader.exit["status"], reader.exit["exit_code"]) == ("completed", 0)


def test_no_more_than_a_window_is_on_its_way_unacknowledged(channel: Channel) -> None:
    with executing(channel.loop, "head -c 8000000 /dev/zero") as execution:
        attachable(channel, execution)
        reader = Reader(channel)
        for _ in range(300):
            reader.read()
        assert RING_BYTES // 2 < len(reader.output) <= RING_BYTES
        assert execution.exit_code is None, "it did not wait for its reader"
        reader.finish()
    assert len(reader.output) == 8_000_000


def test_output_that_nobody_takes_is_held_for_a_while_and_then_the_oldest_goes_with_a_notice(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "HOLD_SECONDS", 0.3)
    with executing(channel.loop, f"{NUMBERS}; {NUMBERS}; {NUMBERS}") as execution:
        attachable(channel, execution)
        turn_until(channel.loop, lambda: execution._paused, "the ring is full")
        held = execution.ring.end
        assert execution.ring.lost == 0
        assert execution._hold is not None
        turn_until(channel.loop, lambda: execution.is_drained, "it goes on by itself and ends")
        reader = Reader(channel)
        reader.finish()
    everything = numbers() * 3
    lost = len(everything) - len(reader.output)
    assert lost > 0
    assert execution.ring.end == len(everything) > held
    assert everything.endswith(reader.output)
    assert reader.notices == [f"{lost} bytes of output were lost: nobody took them in time"]
    assert reader.start == lost


def test_output_is_held_again_when_a_client_leaves(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executions, "HOLD_SECONDS", 0.05)
    with executing(channel.loop, "read x") as execution:
        attachable(channel, execution)
        first = Reader(channel)
        turn(channel.loop, 0.1)
        assert not execution._forgets(), "somebody is attached"
        first.client.close()
        turn(channel.loop)
        assert not execution.attached
        assert not execution._forgets(), "it is not held after a client left"
        turn(channel.loop, 0.1)
        assert execution._forgets()


@pytest.mark.parametrize("attached", [True, False])
def test_who_inherited_the_output_and_writes_for_ever_does_not_keep_a_command_from_ending(
    channel: Channel, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    monkeypatch.setattr(executions, "HOLD_SECONDS", 0.02)
    with executing(channel.loop, "yes & sleep 0.2; exit 3") as execution:
        attachable(channel, execution)
        if attached:
            reader = Reader(channel)
            reader.finish()
        else:
            turn_until(channel.loop, lambda: execution.is_drained, "it ends")
        assert execution.exit_code == 3
        os.killpg(execution.pid, signal.SIGKILL)


def test_what_lay_in_the_pipe_at_the_end_comes_whole_although_another_holds_it_open(channel: Channel) -> None:
    with executing(channel.loop, "sleep 300 & head -c 1500000 /dev/zero") as execution:
        attachable(channel, execution)
        turn_until(channel.loop, lambda: execution.exit_code is not None, "it ends with a full ring and a full pipe")
        assert execution._paused
        reader = Reader(channel)
        reader.finish()
        assert len(reader.output) == 1_500_000
        os.killpg(execution.pid, signal.SIGKILL)


def test_an_ended_execution_is_held_by_no_timer_and_keeps_little_of_what_was_delivered(channel: Channel) -> None:
    with executing(channel.loop, "head -c 600000 /dev/zero", timeout_seconds=3600.0) as execution:
        attachable(channel, execution)
        reader = Reader(channel)
        reader.finish()
        reader.client.close()
    turn(channel.loop)
    assert [timer for timer in channel.loop._timers if timer.call is not None] == []
    assert execution.ring._weight <= KEPT_BYTES
    assert execution.ring.end - execution.ring.start >= KEPT_BYTES // 2


def test_a_stray_event_does_not_make_the_shim_wait_for_a_command(channel: Channel) -> None:
    with executing(channel.loop, "sleep 300") as execution:
        execution._on_end(0)
        assert execution.exit_code is None
        os.killpg(execution.pid, signal.SIGKILL)
        turn_until(channel.loop, lambda: execution.exit_code, "it ends")
        assert (execution.exit_code, execution.status, execution.error) == (137, "killed", "killed by SIGKILL")


def test_a_client_goes_on_where_it_was_or_where_it_says(channel: Channel) -> None:
    with executing(channel.loop, f"{NUMBERS}; sleep 300") as execution:
        attachable(channel, execution)
        first = Reader(channel)
        first.read()
        first.acknowledge()
        turn(channel.loop)
        unseen = first.client
        unseen.close()
        second = Reader(channel)
        assert second.start == len(first.output)
        second.client.close()
        again = Reader(channel, since=max(0, len(first.output) - 1000))
        for _ in range(50):
            again.read()
            again.acknowledge()
        assert again.notices == []
        assert numbers()[again.start : again.start + len(again.output)] == again.output
        again.client.close()
        execution.kill()


def test_input_that_a_command_turns_into_more_output_does_not_lock_up(channel: Channel) -> None:
    """Acknowledgements go the same way as the input: they must not wait behind it."""
    data = os.urandom(3_000_000)
    with executing(channel.loop, "od -v -An -tx1") as execution:
        attachable(channel, execution)
        reader = Reader(channel)
        sent = taken = 0
        end = time.monotonic() + 60
        while reader.exit is None:
            assert time.monotonic() < end, f"stuck: {sent} sent, {taken} taken, {len(reader.output)} read"
            while sent < len(data) and sent - taken <= 196608:
                reader.client.send(frame(Kind.STDIN, data[sent : sent + 65536]))
                sent += 65536
                if sent >= len(data):
                    reader.client.send(frame(Kind.STDIN_EOF))
            for kind, payload in reader.client.frames():
                if kind == Kind.ACK:
                    taken = OFFSET.unpack(payload)[0]
                    assert taken <= sent
                else:
                    reader._take([(kind, payload)])
            reader.acknowledge()
    assert bytes.fromhex(reader.output.decode()) == data


def test_input_of_a_client_that_heeds_nothing_is_bounded(channel: Channel) -> None:
    with executing(channel.loop, "sleep 300") as execution:
        attachable(channel, execution)
        reader = Reader(channel)
        waiting = frame(Kind.STDIN, bytes(65536)) * 100
        for _ in range(300):
            try:
                waiting = waiting[reader.client.sock.send(waiting) :]
            except BlockingIOError:
                turn(channel.loop)
        assert waiting, "it took all of it"
        assert execution.stdin is not None
        assert execution.stdin._queued <= 2 * 256 * 1024 + 65536
        execution.kill()


def ended(channel: Channel, count: int, *, told: bool, ago: float = 0.0, name: str = "exec") -> None:
    for number in range(count):
        one = executions.Execution(f"{name}-{number}", Command(["true"], {}, "/", False, 80, 24, None), channel.loop)
        one.exit_code, one.is_told = 0, told
        one._began, one._duration = time.monotonic() - ago - 1.0, 1.0
        attachable(channel, one)


def remembered(channel: Channel) -> list[str]:
    channel.requests._forget_old()
    return list(channel.requests._executions)


def test_ended_ones_are_forgotten_the_oldest_first_and_those_that_run_never(channel: Channel) -> None:
    with executing(channel.loop, "sleep 300") as running:
        running.id = "exec-running"
        attachable(channel, running)
        ended(channel, MAX_ENDED + 10, told=True)
        left = remembered(channel)
    assert left == ["exec-running", *(f"exec-{number}" for number in range(10, MAX_ENDED + 10))]


def test_of_a_crowd_that_ended_at_once_each_is_kept_for_who_is_on_his_way_to_it(channel: Channel) -> None:
    ended(channel, MAX_ENDED, told=True, name="old")
    ended(channel, MAX_UNTOLD, told=False)
    assert remembered(channel) == [f"exec-{number}" for number in range(MAX_UNTOLD)]
    ended(channel, 10, told=False, name="new")
    assert remembered(channel) == [f"exec-{n}" for n in range(10, MAX_UNTOLD)] + [f"new-{n}" for n in range(10)]


def test_nobody_comes_for_ever(channel: Channel) -> None:
    ended(channel, 100, told=False, ago=UNTOLD_SECONDS)
    assert remembered(channel) == [f"exec-{number}" for number in range(100 - MAX_ENDED, 100)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
OPERATIONS = st.sampled_from(["ping", "list", "inspect", "signal", "resize", "delete", "attach", "no-such", ""])
REQUESTS = st.fixed_dictionaries(
    {"op": OPERATIONS | JSON},
    optional={"execution_id": st.just("exec-1") | JSON, "signal": JSON, "cols": JSON, "rows": JSON, "since": JSON},
)


@given(st.lists(REQUESTS | JSON, max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_request_makes_the_shim_raise(tmp_path_factory: pytest.TempPathFactory, requests: list[Any]) -> None:
    channel = Channel(tmp_path_factory.mktemp("c"))
    try:
        with executing(channel.loop, "exec sleep 300") as execution:
            attachable(channel, execution)
            client = channel.served.connect()
            for request in requests:
                client.send(frame(Kind.REQUEST, json.dumps(request).encode()))
            for kind, payload in client.frames():
                assert kind != Kind.REPLY or "ok" in json.loads(payload)
    finally:
        channel.served.close()


PAYLOADS = st.binary(max_size=20) | REQUESTS.map(lambda value: json.dumps(value).encode())
SIZES = st.fixed_dictionaries({"cols": JSON, "rows": JSON, "signal": JSON}).map(
    lambda value: json.dumps(value).encode()
)


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), PAYLOADS | SIZES), max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_frame_of_an_attached_client_makes_the_shim_raise(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[Kind, bytes]]
) -> None:
    channel = Channel(tmp_path_factory.mktemp("c"))
    try:
        with executing(channel.loop, "exec cat") as execution:
            attachable(channel, execution)
            reader = Reader(channel)
            for kind, payload in found:
                reader.client.send(frame(kind, payload))
            reader.client.receive()
    finally:
        channel.served.close()


@pytest.mark.parametrize("number", [float("inf"), 1e400, 10**30, -5, 99999, None, "TERM", [9]])
@pytest.mark.parametrize("where", ["request", "stream"])
def test_a_signal_that_is_none_is_refused(channel: Channel, number: object, where: str) -> None:
    with executing(channel.loop, "exec sleep 300") as execution:
        attachable(channel, execution)
        if where == "request":
            reply = channel.ask(channel.served.connect(), op="signal", execution_id="exec-1", signal=number)
            assert reply["ok"] is False
        else:
            reader = Reader(channel)
            reader.client.send(frame(Kind.SIGNAL, json.dumps({"signal": number}).encode()))
            reader.client.receive()
            assert reader.client.ended
        assert execution.exit_code is None


def test_resize_of_a_command_without_a_terminal_is_a_notice(channel: Channel) -> None:
    with executing(channel.loop, "exec sleep 300") as execution:
        attachable(channel, execution)
        reader = Reader(channel)
        reader.client.send(frame(Kind.RESIZE, b'{"cols": 1, "rows": 1}'))
        reader.read()
        assert reader.notices == ["execution exec-1 has no terminal: it was started without tty"]
        assert not reader.client.ended


def test_a_second_client_is_refused_and_free_again_when_the_first_has_gone(channel: Channel) -> None:
    with executing(channel.loop, "exec sleep 300") as execution:
        attachable(channel, execution)
        first = Reader(channel)
        second = channel.served.connect()
        reply = channel.ask(second, op="attach", execution_id="exec-1")
        assert (reply["ok"], reply["kind"]) == (False, "already_exists")
        first.client.close()
        turn(channel.loop)
        assert channel.ask(second, op="attach", execution_id="exec-1")["ok"]
