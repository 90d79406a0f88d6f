"""Some points of each operation, cut at a system call or at a name; all of them are for `make faults`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import named, points
from tests.faults.bench import Bench
from tests.faults.named import ELSEWHERE, POINTS, in_the_source
from tests.faults.operations import OPERATIONS
from tests.faults.points import Point
from tests.faults.tracing import has_strace
from tests.integration.daemon_harness import Daemon

CALLS = [
    ("create", "worker", "fsync", "kill", 2),
    ("start", "spawner", "pidfd_open", "EMFILE", 1),
    ("start", "shim", "openat", "ENOSPC", 2),
    ("stop", "database", "pwrite64", "ENOSPC", 3),
    ("remove", "main", "rename", "EIO", 1),
    ("crash", "main", "openat", "EMFILE", 1),
]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.close()


@pytest.mark.skipif(not has_strace(), reason="needs strace, and that it may attach")
@pytest.mark.parametrize("words", CALLS)
def test_a_call_that_is_cut_breaks_no_promise(bench: Bench, words: tuple[str, str, str, str, int]) -> None:
    assert points.run(bench, Point(*words)).reached


def test_every_named_point_is_cut() -> None:
    """A point that nobody cuts at protects nothing, and one that is misspelt is cut nowhere."""
    cut = {name.partition("@")[0] for names in POINTS.values() for name in names}
    assert in_the_source() - ELSEWHERE == cut
    assert set(POINTS) == set(OPERATIONS)


def test_a_misspelt_point_does_not_pass(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="no point of the program"):
        named.run(bench, named.Point("start", "start.after_intnet", "kill"))


def test_a_point_that_is_not_reached_does_not_pass() -> None:
    bench = Bench()
    try:
        with pytest.raises(AssertionError, match="was not reached"):
            named.run(bench, named.Point("create", "exec.after_reply", "kill"))
    finally:
        bench.close()


def test_a_daemon_killed_while_it_makes_its_secret_makes_another() -> None:
    with Daemon() as daemon:
        daemon.launch({"BOXLITED_FAILPOINTS": "key.before_rename=kill"})
        daemon.wait_killed()
        daemon.start()
        box = daemon.run()
        daemon.check_oracle({box["box_id"]: "running"})
