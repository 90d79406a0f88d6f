"""`python -m tests.faults.soak SEED MINUTES`: two hundred boxes, every kind of fault at once, clients all the while.

Owns the course: places are filled, faults come as the seed's schedule has them, invariants are
looked at throughout; now and then everything is lifted and the oracle is asked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from boxlited.errors import BoxlitedError
from tests.faults.soak_boxes import Clients, Crowd
from tests.faults.soak_faults import Fault, Faults, doubles, schedule
from tests.faults.truth import ENDS, untruths
from tests.integration.daemon_harness import Daemon, until

CONFIG = """
[engines]
enabled = ['sandbox', 'process']
[reconcile]
period_seconds = 0.5
[stop]
default_timeout_seconds = 1
"""
CLIENTS = 12
ORACLE_SECONDS = 20.0
SETTLE_SECONDS = 120.0


class Soak:
    def __init__(self, seed: str, minutes: float) -> None:
        self.seed = seed
        self.minutes = minutes
        self.schedule = schedule(seed, minutes)
        self.done: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.looks = 0
        self.oracles = 0
        self.ends = 0
        self._told: list[dict[str, Any]] = []  # every event so far: the log itself is bounded
        self._deaths = threading.Lock()
        self._over = threading.Event()
        self._problems: list[str] = []

    def run(self) -> list[str]:
        """Returns what was violated."""
        with Daemon(CONFIG, is_traced=True) as daemon:
            daemon.start()
            crowd = Crowd(self.seed, daemon.socket)
            self._fill(daemon, crowd)
            watcher = threading.Thread(target=self._watch, args=(daemon,))
            watcher.start()
            try:
                self._course(daemon, crowd)
            finally:
                self._over.set()
                watcher.join()
            self._clear(daemon)
            self.said = crowd.said
        return self._problems

    def _fill(self, daemon: Daemon, crowd: Crowd) -> None:
        def fill(number: int) -> None:
            place = crowd.places[number]
            place.box_id = daemon.create(**place.spec)["box_id"]
            crowd.know(place)
            place.may_be_gone = place.spec.get("auto_remove", False)
            daemon.client.start(place.box_id)

        begin = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fill, range(len(crowd.places))))
        self._say(f"{len(daemon.shims())} boxes run after {time.monotonic() - begin:.0f} s")

    def _course(self, daemon: Daemon, crowd: Crowd) -> None:
        waiting = list(self.schedule)
        while waiting and not self._problems:
            upto = waiting[0].at + ORACLE_SECONDS
            part = [fault for fault in waiting if fault.at < upto]
            waiting = waiting[len(part) :]
            self._storm(daemon, crowd, part)
            self._ask_oracle(daemon, crowd)

    def _storm(self, daemon: Daemon, crowd: Crowd, part: list[Fault]) -> None:
        """Clients and faults together. The schedule's time stands still while the oracle looks."""
        clients = Clients(crowd, daemon.socket, f"{self.seed}/{part[0].at}", CLIENTS)
        faults = Faults(daemon, crowd, self._deaths)
        begin, first = time.monotonic(), part[0].at
        clients.start()
        try:
            for fault in part:
                while time.monotonic() - begin < fault.at - first:
                    faults.lift()
                    time.sleep(0.02)
                what = faults.do(fault)
                self.done[fault.kind] += 1
                self._say(f"{fault.at:7.2f} s  {fault.kind}: {what}")
        finally:
            faults.lift(everything=True)
            clients.stop()
            self._problems += clients.problems + faults.problems

    def _ask_oracle(self, daemon: Daemon, crowd: Crowd) -> None:
        """With no fault left, until nothing is on its way any more."""
        with self._deaths:
            try:
                daemon.drop_client()
                daemon.wait_ready()
                short = {place.name for place in crowd.places if place.is_short}
                until(lambda: self._at_rest(daemon, crowd, short), "every box is at rest", SETTLE_SECONDS)
                crowd.settle()
                self._problems += self._false_ends(daemon, crowd)
                daemon.client.reconcile()  # foreign directories go to quarantine
                self._problems += self._untruths(daemon, crowd)
                with crowd.deeds.during("kill daemon"):
                    daemon.check_oracle(crowd.acknowledged(), crowd.removed)
            except AssertionError as error:
                self._problems.append(str(error))
        if "Traceback" in daemon.log_text():
            self._problems.append("an error was not told in words: " + first_traceback(daemon.log_text()))
        self.oracles += 1
        self._say(f"{'':11}oracle: {len(daemon.shims())} shims, {len(self._problems)} violations")

    def _untruths(self, daemon: Daemon, crowd: Crowd) -> list[str]:
        """What was acknowledged and does not hold, beyond what the oracle asks."""
        running = {box_id for box_id, _pid in daemon.shims()}
        return [f"4: the stopped box {one} runs" for one in crowd.stopped() if one in running]

    def _false_ends(self, daemon: Daemon, crowd: Crowd) -> list[str]:
        """What was told of ends since the last time, and is not how they came about."""
        last = self._told[-1]["seq"] if self._told else 0
        with daemon.client.events(last, follow=False) as events:
            self._told += [dict(event) for event in events]
        self.ends += sum(event["kind"] in ENDS for event in self._told if event["seq"] > last)
        return untruths(self._told, crowd.deeds, crowd.codes, since=last)

    def _at_rest(self, daemon: Daemon, crowd: Crowd, short: set[str]) -> bool:
        """What ends by itself, or waits for its policy, is stopped: its time would come while the oracle compares."""
        restless = False
        for row in daemon.client.list():
            is_due = row["desired"] in ("running", "restarted") and row["status"] != "running"
            if is_due or (row["status"] == "running" and row["name"] in short):
                restless = True
                with suppress(BoxlitedError), crowd.deeds.during("stop", row["box_id"]):
                    daemon.client.stop(row["box_id"], 0.0)
            restless = restless or row["status"] in ("stopping", "unknown")
        return not restless

    def _watch(self, daemon: Daemon) -> None:
        """Throughout: no stranger is signalled, no box has two shims."""
        while not self._over.wait(0.3):
            self.looks += 1
            self._problems += list(doubles(daemon))
            self._problems += ["1: a stranger was signalled" for one in daemon.sentinels if one.poll() is not None]

    def _clear(self, daemon: Daemon) -> None:
        def remove(box_id: str) -> None:
            with suppress(BoxlitedError):
                daemon.client.remove(box_id, force=True)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(remove, daemon.table()))
        try:
            until(lambda: not daemon.table(), "every box can be removed")
            daemon.check_oracle({})
            assert daemon.shims() == [], "shims are left"
        except AssertionError as error:
            self._problems.append(str(error))

    def _say(self, text: str) -> None:
        print(text, flush=True)


def main(seed: str, minutes: float) -> int:
    soak = Soak(seed, minutes)
    print(f"soak: seed {seed}, {minutes:g} minutes, {len(soak.schedule)} faults, {os.cpu_count()} cores", flush=True)
    problems = soak.run()
    print(f"{sum(soak.done.values())} faults: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(soak.done.items())))
    print("answers: " + ", ".join(f"{number} x {what}" for what, number in sorted(soak.said.items())))
    print(f"invariants looked at {soak.looks} times, the oracle asked {soak.oracles + 1} times")
    print(f"{soak.ends} ends were told, and each was held against what was done to its box")
    print(f"{len(problems)} violations")
    for problem in problems:
        print(f"VIOLATION {problem}\n  again: make soak SEED={seed} MINUTES={minutes:g}", file=sys.stderr)
    return 1 if problems else 0


def first_traceback(log: str) -> str:
    """Its end says what it was."""
    text = log.partition("Traceback")[2].partition("\n{")[0]
    return text if len(text) < 3000 else f"{text[:500]} ... {text[-2500:]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "1", float(sys.argv[2]) if len(sys.argv) > 2 else 1.0))
