"""Every point of every operation: counted first, then cut at the first, the second, ... until none is reached.

Owns the order and the tally. Several homes are worked in at once.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.faults import named
from tests.faults.bench import Bench
from tests.faults.calls import ERRORS, kinds
from tests.faults.operations import OPERATIONS
from tests.faults.points import Point, run

JOBS = int(os.environ.get("BOXLITED_FAULT_JOBS", "2"))  # homes that are worked in at once
MOST = 400  # points of one call and kind: a sweep that goes on for ever is a fault of its own


@dataclass(slots=True)
class Line:
    """One line of the table."""

    operation: str
    where: str
    kind: str
    points: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


def command(point: Point | named.Point) -> str:
    """What cuts this one point again."""
    return f".venv/bin/python -m tests.faults {shlex.join(point.words)}"


class Worker:
    """One home after the other; each is thrown away once something went wrong in it."""

    def __init__(self) -> None:
        self._bench: Bench | None = None

    def bench(self) -> Bench:
        if self._bench is None:
            self._bench = Bench()
        return self._bench

    def close(self) -> None:
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.close()

    def count(self, operation: str, role: str) -> dict[str, int]:
        """How often each call is made when nothing is cut."""
        counts = run(self.bench(), Point(operation, role)).counts
        kind = OPERATIONS[operation]
        wanted = kind.only.get(role, frozenset(ERRORS))
        return {call: number for call, number in counts.items() if call in wanted}

    def sweep(self, line: Line, points: Iterable[Point | named.Point]) -> None:
        """Cut at each point until one is not reached. What is thrown is a violation."""
        begin = time.monotonic()
        for point in points:
            try:
                if isinstance(point, named.Point):
                    named.run(self.bench(), point)
                elif not run(self.bench(), point).reached:
                    break
                line.points += 1
            except Exception as error:  # whatever it is, it belongs to this point
                line.points += 1
                line.violations.append(f"{command(point)}\n    {type(error).__name__}: {str(error)[:1500]}")
                self.close()
        line.seconds = time.monotonic() - begin


def numbered(operation: str, role: str, call: str, kind: str, least: int) -> Iterator[Point]:
    """The first, the second, ... ; the last of a run that takes another course than the counted one may be missing."""
    for number in range(1, MOST + 1):
        yield Point(operation, role, call, kind, number)
    raise AssertionError(f"{operation}: {call} is still reached at {MOST} (counted: {least})")


class Sweep:
    """All lines of the operations that are asked for; prints each as it is finished."""

    def __init__(self, operations: Iterable[str], jobs: int = JOBS) -> None:
        self._operations = list(operations)
        self._jobs = jobs
        self._print = threading.Lock()
        self._local = threading.local()
        self._workers: list[Worker] = []
        self.lines: list[Line] = []

    def run(self) -> list[Line]:
        try:
            with ThreadPoolExecutor(self._jobs) as pool:
                places = [(operation, role) for operation in self._operations for role in OPERATIONS[operation].roles]
                counted = list(pool.map(lambda place: self._worker().count(*place), places))
                work = [
                    (operation, role, call, kind, number)
                    for (operation, role), counts in zip(places, counted, strict=True)
                    for call, number in sorted(counts.items())
                    for kind in kinds(role, call)
                ]
                tasks = [pool.submit(self._sweep_call, *one) for one in work]
                tasks += [pool.submit(self._sweep_named, one) for one in self._operations]
                for task in tasks:
                    task.result()
        finally:
            for worker in self._workers:
                worker.close()
        return self.lines

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker()
            self._workers.append(worker)
        return worker

    def _sweep_call(self, operation: str, role: str, call: str, kind: str, number: int) -> None:
        line = Line(operation, f"{role}: {call}", kind)
        self._worker().sweep(line, numbered(operation, role, call, kind, number))
        self._done(line)

    def _sweep_named(self, operation: str) -> None:
        for kind in named.KINDS:
            line = Line(operation, "named points", kind)
            self._worker().sweep(line, named.points(operation, kind))
            self._done(line)

    def _done(self, line: Line) -> None:
        with self._print:
            self.lines.append(line)
            print(f"{line.operation:14} {line.where:32} {line.kind:8} {line.points:4} points", end=" ")
            print(f"{len(line.violations):3} violations {line.seconds:6.1f} s", flush=True)
            for violation in line.violations:
                print(f"  VIOLATION {violation}", flush=True)


def table(lines: list[Line]) -> str:
    """Operation x injected call x kind; the sum at the end."""
    rows = sorted(lines, key=lambda line: (list(OPERATIONS).index(line.operation), line.where, line.kind))
    text = [f"{'operation':14} {'injected':32} {'kind':8} {'points':>7} {'violations':>11}"]
    text += [
        f"{row.operation:14} {row.where:32} {row.kind:8} {row.points:7} {len(row.violations):11}"
        for row in rows
        if row.points
    ]
    points, violations = sum(row.points for row in rows), sum(len(row.violations) for row in rows)
    return "\n".join([*text, f"{'total':56} {points:7} {violations:11}"])


def main(operations: Iterable[str]) -> int:
    begin = time.monotonic()
    lines = Sweep(operations).run()
    print()
    print(table(lines))
    print(f"{time.monotonic() - begin:.0f} s")
    violations = [violation for line in lines for violation in line.violations]
    for violation in violations:
        print(f"VIOLATION {violation}", file=sys.stderr)
    return 1 if violations else 0
