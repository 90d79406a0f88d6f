"""The shim's poll loop: events go to whom they are for, timers come in order, and none is leaked."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import pytest

from boxlited.shim.loop import MANY_TIMERS, Loop


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(3)]
    yield made
    for pair in made:
        for fd in pair:
            try:
                os.close(fd)
            except OSError:
                pass


def test_a_handler_hears_of_its_descriptor_until_it_is_forgotten(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    (read, write), heard = pipes[0], []

    def on_input(events: int) -> None:
        heard.append((os.read(read, 1), bool(events & select.POLLIN)))
        if len(heard) == 2:
            loop.forget(read)
            loop.after(0.0, loop.stop)

    loop.watch(read, select.POLLIN, on_input)
    os.write(write, b"abc")
    loop.run()
    assert heard == [(b"a", True), (b"b", True)]
    loop.forget(read)  # twice does no harm


def test_a_number_that_is_opened_anew_within_a_turn_gets_no_event_of_the_old_one(
    loop: Loop, pipes: list[tuple[int, int]]
) -> None:
    """The handler of the first closes the second, which had an event in the same turn, and its number is reused."""
    (first, _w1), (second, _w2), (third, _w3) = pipes
    heard: list[str] = []

    def replace(_events: int) -> None:
        loop.forget(first)
        loop.forget(second)
        os.dup2(third, second)
        loop.watch(second, select.POLLIN, lambda _events: heard.append("stale"))
        loop.after(0.01, loop.stop)

    loop.watch(first, select.POLLIN, replace)
    loop.watch(second, select.POLLIN, lambda _events: heard.append("old"))
    os.write(pipes[0][1], b"x")
    os.write(pipes[1][1], b"x")
    loop.run()
    assert heard == []


def test_a_descriptor_forgotten_within_a_turn_is_not_called(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    heard: list[int] = []

    def hear(fd: int) -> None:
        heard.append(fd)
        for read, _write in pipes:
            loop.forget(read)
        loop.stop()

    for read, write in pipes:
        loop.watch(read, select.POLLIN, lambda _events, fd=read: hear(fd))
        os.write(write, b"x")
    loop.run()
    assert len(heard) == 1


def test_with_no_events_asked_for_only_the_end_wakes(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    (read, write), heard = pipes[0], []

    def hear(events: int) -> None:
        heard.append(events)
        loop.stop()

    loop.watch(read, select.POLLIN, hear)
    loop.change(read, 0)
    os.write(write, b"unread")
    loop.after(0.02, lambda: os.close(write))
    loop.run()
    assert heard == [select.POLLHUP]


def test_timers_ring_in_order_and_a_cancelled_one_not_at_all(loop: Loop) -> None:
    rung: list[int] = []
    loop.after(0.03, loop.stop)
    timers = [loop.after(delay, lambda n=n: rung.append(n)) for n, delay in enumerate((0.02, 0.01, 0.0, 0.015))]
    timers[3].cancel()
    loop.run()
    assert rung == [2, 1, 0]


def test_a_timer_may_set_the_next_and_cancel_another(loop: Loop) -> None:
    rung: list[str] = []
    other = loop.after(0.01, lambda: rung.append("other"))

    def first() -> None:
        rung.append("first")
        other.cancel()
        loop.after(0.02, lambda: (rung.append("second"), loop.stop()))

    loop.after(0.0, first)
    loop.run()
    assert rung == ["first", "second"]


def test_a_far_timer_does_not_overflow_the_poll(loop: Loop) -> None:
    loop.after(float("inf"), loop.stop)
    loop.after(1e12, loop.stop)
    assert loop._milliseconds() <= 3600.0 * 1000 + 1


def test_a_poll_does_not_wake_before_its_timer(loop: Loop) -> None:
    woke: list[float] = []
    due = time.monotonic() + 0.0105
    timer = loop.after(0.0105, lambda: (woke.append(time.monotonic()), loop.stop()))
    loop.run()
    assert woke[0] >= timer.when
    assert woke[0] >= due


def test_cancelled_timers_do_not_stay_for_their_whole_time(loop: Loop) -> None:
    """A timeout of a day that is cancelled after a second, ten thousand times."""
    kept = loop.after(86400.0, loop.stop)
    for _ in range(10_000):
        loop.after(86400.0, loop.stop).cancel()
    assert len(loop._timers) <= 2 * MANY_TIMERS
    assert kept in loop._timers
