"""Whether the end that was told of each run of a soak is the true one. Pure: events and deeds in, words out.

Owns what may bring about what. A workload ends by a code of its own, or by a signal that somebody sent: each end in
the event log must be one that something did bring about just so, and no other explanation is taken. A workload that was
killed while it certainly lived has ended by SIGKILL, whatever else befell it. That nothing is known of an end is true
only where its evidence was destroyed and there was no daemon to see it.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

KILLED = 128 + signal.SIGKILL
ASKED = {"stop": {128 + signal.SIGTERM, KILLED}, "signal": {128 + signal.SIGUSR2}}
ENDS = ("stopped", "failed")
KILLS = {"kill shim", "kill workload", "kill below"}  # the last: of what is below a shim, and perhaps the workload
UNSEEN = {"kill daemon", "kill spawner"}  # whoever would have seen the shim's death may be gone
UNRECORDED = {"damage", "blind shims"}  # an exit file that is none, or that could not be written


@dataclass(slots=True)
class Deed:
    """What was done, to which box (None: to all), below which shim, and in which time (wall clock)."""

    what: str
    box_id: str | None = None
    shim: int | None = None
    began: float = field(default_factory=time.time)
    ended: float = math.inf


class Deeds:
    """Everything that was done to boxes so far. Threads add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Deed] = []

    def note(self, what: str, box_id: str | None = None, shim: int | None = None) -> Deed:
        """Call before it is done; it lasts until `ended` is set."""
        deed = Deed(what, box_id, shim)
        with self._lock:
            self._all.append(deed)
        return deed

    @contextmanager
    def during(self, what: str, box_id: str | None = None, shim: int | None = None) -> Iterator[None]:
        deed = self.note(what, box_id, shim)
        try:
            yield
        finally:
            deed.ended = time.time()

    def settle(self) -> None:
        """Nothing that was begun is under way any more."""
        with self._lock:
            for deed in self._all:
                if deed.what != "blind shims":
                    deed.ended = min(deed.ended, time.time())

    def to(self, run: Run, end: float) -> set[str]:
        with self._lock:
            return {deed.what for deed in self._all if run.was_met_by(deed, end)}


@dataclass(slots=True)
class Run:
    """From `starting` to the next `starting` of one box. `shims`: the pids that were told of."""

    box_id: str
    began: float
    shims: set[int] = field(default_factory=set)
    was_ready: bool = False
    was_stopped: bool = False
    ends: list[Mapping[str, Any]] = field(default_factory=list)

    def was_met_by(self, deed: Deed, end: float) -> bool:
        if deed.box_id not in (None, self.box_id):
            return False
        if deed.shim is not None and self.shims:
            return deed.shim in self.shims
        return deed.began <= end and deed.ended >= self.began


def seconds(at: str) -> float:
    """The wall clock of an event."""
    return datetime.fromisoformat(at).timestamp()


def runs(events: Iterable[Mapping[str, Any]]) -> list[Run]:
    found: list[Run] = []
    last: dict[str, Run] = {}
    for event in events:
        box_id, kind = event["box_id"], event["kind"]
        if kind == "starting":
            last[box_id] = Run(box_id, seconds(event["at"]))
            found.append(last[box_id])
        elif box_id in last:
            run = last[box_id]
            if kind in ("started", "adopted"):
                run.shims.add(event["data"]["pid"])
                run.was_ready = run.was_ready or kind == "started"
            run.was_stopped = run.was_stopped or kind == "stopping"
            if kind in ENDS:
                run.ends.append(event)
    return found


def untruths(
    events: Iterable[Mapping[str, Any]], deeds: Deeds, codes: Mapping[str, int | None], since: int = 0
) -> list[str]:
    """Ends told after number `since` that nothing explains. `codes`: box id -> what its workload ends with by itself,
    None where it never does."""
    found = []
    for run in runs(events):
        for end in (one for one in run.ends if one["seq"] > since):
            done = deeds.to(run, seconds(end["at"])) | ({"stop"} if run.was_stopped else set())
            if run.box_id in codes and not is_true(run, end, done, codes[run.box_id]):
                told = (end["kind"], end["data"]["stop_cause"], end["data"]["exit_code"])
                found.append(f"7: box {run.box_id} was told to have ended as {told} (event {end['seq']}), and what was"
                             f" done to it is {sorted(done)}: {end['data']['failure_reason']}")  # fmt: skip
    return found


def is_true(run: Run, end: Mapping[str, Any], done: set[str], own: int | None) -> bool:
    code, told = end["data"]["exit_code"], (end["kind"], end["data"]["stop_cause"])
    if told == ("failed", "start_failed"):
        return not run.was_ready and code != 0
    if not run.was_ready and told == ("failed", "crashed") and code == 1:
        return True  # the shim said why it could not start, and the daemon was not there any more
    if code is None:
        return _may_be_unknown(told, done)
    return code in _codes(done, own) and told in _words(code, done)


def _may_be_unknown(told: tuple[str, str], done: set[str]) -> bool:
    is_lost = done & (UNRECORDED | {"stop", "kill shim"}) and done & UNSEEN
    words = {("stopped", "lost")}
    words |= {("stopped", "user")} if "stop" in done else set()
    words |= {("failed", "crashed")} if "damage" in done else set()
    return bool(is_lost) and told in words


def _codes(done: set[str], own: int | None) -> set[int]:
    """What it can have ended with."""
    if "kill workload" in done:
        return {KILLED}
    codes = {KILLED} if done & KILLS else set()
    for what, asked in ASKED.items():
        codes |= asked if what in done else set()
    return codes if own is None else codes | {own}


def _words(code: int, done: set[str]) -> set[tuple[str, str]]:
    """How it can have been told."""
    words = {("failed", "crashed")} if code > 128 else {("stopped", "exited")}
    words |= {("stopped", "user")} if "stop" in done else set()
    words |= {("failed", "crashed")} if "damage" in done else set()
    if (code == KILLED and done & {"stop", "kill shim"}) or "blind shims" in done:
        words.add(("failed", "shim_killed"))
    return words
