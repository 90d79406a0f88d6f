"""One point: an operation, where it is cut, and how. Runs it, restarts, and asks the oracle.

A point is reached or not; one that is reached and breaks a promise raises `AssertionError`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.faults.bench import Bench, name_of, open_gate
from tests.faults.calls import KILL
from tests.faults.operations import OPERATIONS, Operation
from tests.faults.tracing import Tracer, threads_of
from tests.integration.daemon_harness import until
from tests.integration.leftovers import children

Reached = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Point:
    """`call` None: nothing is cut, the calls are only counted."""

    operation: str
    role: str
    call: str | None = None
    kind: str = ""
    number: int = 0

    @property
    def words(self) -> list[str]:
        """As the command line takes them."""
        return [self.operation, self.role, self.call or "", self.kind, str(self.number)]

    @property
    def injection(self) -> tuple[str, str, int] | None:
        return None if self.call is None else (self.call, self.kind, self.number)


@dataclass(slots=True)
class Outcome:
    """What became of the operation itself. `counts` are the calls of the traced threads."""

    reached: bool
    said_yes: bool
    counts: dict[str, int]


def run(bench: Bench, point: Point) -> Outcome:
    """Cut once, and see that everything that the daemon promises holds. Raises AssertionError."""
    operation = OPERATIONS[point.operation](bench)
    operation.prepare()
    log_begin = len(bench.daemon.log_text())
    outcome = _cut(operation, point)
    if point.call is not None and not outcome.reached:  # it ran through: nothing happened
        operation.clear()
        return outcome
    judge(operation, outcome.said_yes, may_die=_may_die(point))
    no_bug(bench, log_begin)
    return outcome


def judge(operation: Operation, said_yes: bool, *, may_die: bool) -> None:
    """After the fault: the daemon again without it, the oracle, the operation once more."""
    bench = operation.bench
    if not bench.is_up:
        assert may_die, "the daemon ended, and nobody killed it"
        bench.daemon.drop_client()
        bench.daemon.start()
    bench.settle_boxes()
    operation.check(said_yes)
    acknowledged: dict[str, str | None] = {bench.bystander["box_id"]: "running"}
    if said_yes and operation.promise is not None:
        acknowledged[operation.subject] = operation.promise
    bench.daemon.check_oracle(acknowledged)
    assert bench.daemon.get(bench.bystander["box_id"])["pid"] == bench.bystander["pid"], "the bystander suffered"
    operation.check(said_yes)
    operation.again()
    operation.clear()
    bench.warm_up()


def _may_die(point: Point) -> bool:
    """A daemon that starts may refuse to; one that serves ends only by a kill."""
    return point.kind == KILL or point.role.startswith("recovery")


def no_bug(bench: Bench, log_begin: int) -> None:
    """An error of the system is told as what it is, in words."""
    said = bench.daemon.log_text()[log_begin:]
    assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:4000]


def _cut(operation: Operation, point: Point) -> Outcome:
    if point.role.startswith("recovery"):
        return _cut_recovery(operation, point)
    if point.role == "shim":
        return _cut_shim(operation, point)
    bench = operation.bench
    threads = _threads(operation, point)
    assert threads, f"no thread of the daemon is {point.role}"
    with Tracer(threads, bench.trace, point.injection) as tracer:
        said_yes = operation.act(_asker(tracer, point))
        _wait_killed(bench, tracer, point)
    return Outcome(_reached(tracer, point), said_yes, dict(tracer.counts()))


def _threads(operation: Operation, point: Point) -> list[int]:
    bench = operation.bench
    if point.role == "shim that lives":
        operation.cut = point.kind or None
        return [operation.pid]
    return [bench.spawner()] if point.role == "spawner" else threads_of(bench.pid, point.role)


def _cut_recovery(operation: Operation, point: Point) -> Outcome:
    """From the first instruction of the daemon's own on. `all` follows each thread and each child that it makes;
    `database` too, and has only what goes to the files of the database."""
    bench = operation.bench
    paths = bench.database() if point.role == "recovery database" else ()
    bench.relaunch({"BOXLITED_FAILPOINTS": f"daemon.begin=pause:{bench.gate}"})
    follow = point.role != "recovery main"
    tracer = Tracer([bench.pid], bench.trace, point.injection, follow=follow, paths=paths)
    open_gate(bench.gate, tracer.__enter__)
    with _entered(tracer):
        said_yes = operation.act(_asker(tracer, point))
    if not said_yes and point.kind != KILL:
        refused_in_words(bench)
    return Outcome(_reached(tracer, point), said_yes, dict(tracer.counts()))


def refused_in_words(bench: Bench) -> None:
    """A daemon that did not start has said in one line why."""
    process = bench.daemon.process
    assert process is not None
    code = process.wait()
    last = bench.daemon.log_text().rstrip().rpartition("\n")[2]
    assert code > 0, f"it ended with {code}"
    assert last.startswith("boxlited: "), f"it says {last!r}"


def _cut_shim(operation: Operation, point: Point) -> Outcome:
    """From the first instruction of the forked child on, through the hook, until the box runs."""
    bench = operation.bench
    bench.daemon.kill9()
    bench.daemon.start({"BOXLITED_FAILPOINTS": f"hook.begin=pause:{bench.gate}"})
    answers: list[bool] = []
    asker = threading.Thread(target=lambda: answers.append(operation.act(lambda: True)))
    asker.start()
    tracers: list[Tracer] = []

    def attach() -> None:
        held = [pid for pid in children(bench.spawner()) if name_of(pid) == "boxlited-spawn"]
        tracers.append(Tracer(held, bench.trace, point.injection).__enter__())

    open_gate(bench.gate, attach)
    with _entered(tracers[0]) as tracer:
        asker.join()
    bench.daemon.client.health()  # whatever became of the child, the daemon lives
    bench.daemon.kill9()
    bench.daemon.start()
    return Outcome(_reached(tracer, point), answers[0], dict(tracer.counts()))


@contextmanager
def _entered(tracer: Tracer) -> Iterator[Tracer]:
    try:
        yield tracer
    finally:
        tracer.__exit__(None, None, None)


def _asker(tracer: Tracer, point: Point) -> Reached:
    return (lambda: False) if point.call is None else tracer.is_reached


def _reached(tracer: Tracer, point: Point) -> bool:
    return point.call is not None and tracer.is_reached()


def _wait_killed(bench: Bench, tracer: Tracer, point: Point) -> None:
    """A killed daemon is gone before it is judged; its death is the point's own doing."""
    if point.kind != KILL or not tracer.is_reached() or point.role in ("spawner", "shim", "shim that lives"):
        return
    process: Any = bench.daemon.process
    assert process.wait(timeout=30) == -signal.SIGKILL
    until(lambda: process.poll() is not None, "it is reaped")
    bench.daemon.drop_client()
