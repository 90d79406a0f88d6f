"""The promise of patience.py: a stop asks as long as the least patient of those who want the box down."""

from __future__ import annotations

import trio

from boxlited.supervisor.patience import Patience


async def asked(patience: Patience, seconds: float) -> float:
    began = trio.current_time()
    with patience.asking(seconds):
        await trio.sleep_forever()
    return trio.current_time() - began


async def test_a_stop_alone_asks_for_its_own_grace(autojump_clock: trio.testing.MockClock) -> None:
    assert await asked(Patience(), 30.0) == 30.0


async def test_who_comes_later_shortens_it_from_then_on_and_never_lengthens_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    patience = Patience()
    took: list[float] = []

    async def stop() -> None:
        took.append(await asked(patience, 30.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await trio.sleep(5)
        with patience.at_most(60.0), patience.at_most(2.0):
            await trio.sleep(10)
    assert took == [7.0]
    assert not patience.is_asking


async def test_who_waits_before_it_begins_counts_only_while_he_waits(autojump_clock: trio.testing.MockClock) -> None:
    patience = Patience()
    with patience.at_most(1.0):
        await trio.sleep(5)
        assert patience.least(30.0) == 1.0
        assert await asked(patience, 30.0) == 1.0
    assert await asked(patience, 30.0) == 30.0
