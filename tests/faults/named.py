"""The named points of the code: each is found by its name in the source, and each belongs to an operation.

A point that nobody can name, or that its operation does not reach, is an error: a misspelt one
must not pass.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boxlited
from tests.faults.bench import Bench
from tests.faults.operations import OPERATIONS
from tests.faults.points import judge, refused_in_words

KINDS = ("kill", "EIO", "ENOSPC")
ERRNO = {"EIO": 5, "ENOSPC": 28}
SECOND = "@2"  # the first commit of a daemon is its own

POINTS: dict[str, tuple[str, ...]] = {
    "create": (
        "create.before_sync", "create.after_directory", "create.after_row",
        f"store.before_commit{SECOND}", f"store.after_commit{SECOND}",
    ),
    "start": (
        "start.after_intent", "start.after_cgroup", "start.after_spawn", "start.after_ready", "start.after_row",
        f"watch.before_register{SECOND}",  # the bystander was first
        "spawner.before_fork", "spawner.after_fork", "hook.begin", "hook.before_pid_file", "hook.after_pid_file",
        "shim.after_stash", "shim.before_workload", "shim.after_workload", "shim.after_ready",
        "workload.before_leash", "workload.after_leash",
    ),
    "stop": (
        "stop.after_intent", "stop.after_signal", "apply.before_write", "apply.after_write", "apply.after_pid_file",
        "shim.exit_info", "shim.before_exit_file", "exit.before_rename", "shim.after_exit_file",
    ),
    "kill": ("stop.after_intent", "stop.after_insist"),
    "remove": ("remove.after_intent", "remove.after_rename", "remove.after_delete"),
    "crash": ("apply.before_write", "apply.after_write", "apply.after_pid_file"),
    "end": ("shim.exit_info", "shim.before_exit_file", "exit.before_rename", "shim.after_exit_file"),
    "event append": (f"store.before_commit{SECOND}", f"store.after_commit{SECOND}"),
    "exec": ("exec.before_request", "exec.after_reply"),
    "recovery": (
        "daemon.begin", "daemon.after_lock", "recover.begin", "scan.begin", "quarantine.after_rename",
        "recover.after_scan", "apply.after_stash",
        "apply.before_write", "apply.after_write", "daemon.after_recovery", "daemon.before_api",
    ),
    "rebuild": ("store.set_aside", "scan.begin", "daemon.after_rebuild"),
}  # fmt: skip
# Cut by tests of their own, which bring about what reaches them.
ELSEWHERE = frozenset({"key.before_rename", "apply.await_evidence"})
BELOW = ("spawner.", "hook.", "shim.", "exit.", "workload.")  # in a process that the daemon has forked
# No system call of ours that could fail lies there.
NO_CALLS = ("store.", "daemon.", "recover.", "quarantine.", "shim.before_exit_file", "shim.after_exit_file")


@dataclass(frozen=True, slots=True)
class Point:
    """`name` may end with `@N`: at the N-th time."""

    operation: str
    name: str
    kind: str

    @property
    def words(self) -> list[str]:
        """As the command line takes them."""
        return [self.operation, "named", self.name, self.kind]

    @property
    def environment(self) -> str:
        plain, _, number = self.name.partition("@")
        action = "kill" if self.kind == "kill" else f"error:{ERRNO[self.kind]}"
        return f"{plain}={action}" + (f"@{number}" if number else "")


def in_the_source() -> set[str]:
    """Every name that the program's own text has."""
    root = Path(boxlited.__file__).parent
    return {name for path in root.rglob("*.py") for name in re.findall(r'\bhit\("([a-z_.]+)"\)', path.read_text())}


def points(operation: str, kind: str) -> Iterator[Point]:
    for name in POINTS[operation]:
        if kind == "kill" or not name.startswith(NO_CALLS):
            yield Point(operation, name, kind)


def run(bench: Bench, point: Point) -> None:
    """Cut there, and see that everything that the daemon promises holds. Raises AssertionError."""
    plain = point.name.partition("@")[0]
    assert plain in in_the_source(), f"no point of the program is named {plain!r}"
    below = plain.startswith(BELOW)
    operation = OPERATIONS[point.operation](bench)
    if not below:
        operation.prepare()
    operation.cut = point.kind if below else None
    bench.acted.unlink(missing_ok=True)
    bench.relaunch({"BOXLITED_FAILPOINTS": point.environment, "BOXLITED_FAILPOINTS_ACTED": str(bench.acted)})
    starts = operation.roles[0].startswith("recovery")
    if not starts:
        assert bench.settle_start(), "the daemon did not start"
    if below:
        operation.prepare()
    said_yes = operation.act(bench.acted.exists)
    assert bench.acted.exists(), f"{point.name} was not reached"
    if point.kind == "kill" and not below:
        assert bench.daemon.process is not None
        assert bench.daemon.process.wait(timeout=30) == -signal.SIGKILL
    if starts and not said_yes and point.kind != "kill":
        refused_in_words(bench)
    if point.name == "shim.after_ready":
        said_yes = False  # it ran when that was said, and has ended since
    judge(operation, said_yes, may_die=starts or (point.kind == "kill" and not below))
