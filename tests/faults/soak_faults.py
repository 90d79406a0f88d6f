"""The faults of a soak: one method for each kind, and the schedule that a seed gives.

Owns what must be undone afterwards: whatever is held, limited or traced is released by `lift`.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from boxlited.errors import BoxlitedError
from tests.faults.soak_boxes import Crowd
from tests.faults.tracing import detach
from tests.faults.victims import is_stopped, send, workload_of, write
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid
from tests.integration.leftovers import children, descendants

KINDS = (
    "kill the daemon", "kill the daemon", "stop the daemon", "start a second daemon", "kill the spawner",
    "kill shims", "kill shims", "kill workloads", "hold shims", "hold the spawner",
    "fill the disk", "fail the disk", "take the descriptors", "fail the forks",
    "put a foreign file", "put a foreign directory", "tear a dead box's file",
)  # fmt: skip
CONTENTS = (b"", b"\xff\x00torn", b'{"type":"sig', b"4294967295\n1\n", b"[" * 5000)


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: seconds from the beginning. `luck` makes every further choice."""

    at: float
    kind: str
    luck: float
    seconds: float


def schedule(seed: str, minutes: float) -> list[Fault]:
    """The same for the same seed and time."""
    chance = random.Random(f"{seed}/faults")
    faults: list[Fault] = []
    at = 0.0
    while (at := at + chance.uniform(0.3, 1.5)) < minutes * 60:
        faults.append(Fault(round(at, 2), chance.choice(KINDS), chance.random(), chance.uniform(0.2, 2.0)))
    return faults


class Faults:
    """Brings faults about in a served home. `serve` restarts a daemon that was killed."""

    def __init__(self, daemon: Daemon, crowd: Crowd, deaths: threading.Lock) -> None:
        self._daemon = daemon
        self._crowd = crowd
        self._deaths = deaths  # held while there is no daemon, and while the oracle looks
        self.problems: list[str] = []
        self._held: list[tuple[float, int]] = []
        self._limits: list[tuple[float, int, int, tuple[int, int]]] = []
        self._tracers: list[tuple[float, subprocess.Popen[bytes]]] = []

    def do(self, fault: Fault) -> str:
        """Bring it about; says what was done."""
        chance = random.Random(fault.luck)
        name = "_" + fault.kind.replace(" ", "_").replace("'", "")
        with self._deaths:
            return str(getattr(self, name)(chance, time.monotonic() + fault.seconds))

    def lift(self, *, everything: bool = False) -> None:
        """Release what has been held for long enough, or all."""
        now = float("inf") if everything else time.monotonic()
        for until_then, pid in [one for one in self._held if one[0] <= now]:
            send(pid, signal.SIGCONT)
            self._held.remove((until_then, pid))
        for limit in [one for one in self._limits if one[0] <= now]:
            with suppress(ProcessLookupError):
                resource.prlimit(limit[1], limit[2], limit[3])
            self._limits.remove(limit)
        for traced in [one for one in self._tracers if one[0] <= now]:
            detach(traced[1])
            self._tracers.remove(traced)
        self._look_at_disk()

    def _look_at_disk(self) -> None:
        """Bad until what was held back is written."""
        bad = self._tracers or any(limit[2] == resource.RLIMIT_FSIZE for limit in self._limits)
        if self._crowd.disk_is_bad and not bad:
            with suppress(BoxlitedError):
                self._crowd.disk_is_bad = self._daemon.client.metrics()["store"]["pending"] > 0

    # -- processes

    def _kill_the_daemon(self, _chance: random.Random, _end: float) -> str:
        self.lift(everything=True)
        pid = self._pid
        with self._crowd.deeds.during("kill daemon"):
            self._daemon.restart_after_kill()
        return f"daemon {pid} killed; {self._pid} serves"

    def _stop_the_daemon(self, _chance: random.Random, _end: float) -> str:
        self.lift(everything=True)
        with self._crowd.deeds.during("kill daemon"):
            code = self._daemon.stop()
            self._daemon.start()
        if code != 0:
            self.problems.append(f"16: a daemon that was stopped ended with {code}")
        return f"daemon stopped; {self._pid} serves"

    def _start_a_second_daemon(self, _chance: random.Random, _end: float) -> str:
        argv = [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(self._daemon.home)]
        argv += ["--socket", str(self._daemon.root / "s" / "second.sock")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        said = done.stderr.strip().rpartition("\n")[2]
        if done.returncode <= 0 or not said.startswith("boxlited: "):
            self.problems.append(f"21: a second daemon ended with {done.returncode} and said {said!r}")
        return "it was refused"

    def _kill_the_spawner(self, _chance: random.Random, _end: float) -> str:
        if self._crowd.disk_is_bad:  # the next one is made under the same limit
            self._crowd.deeds.note("blind shims")
        self._crowd.deeds.note("kill spawner")
        for pid in children(self._pid):
            kill_pid(pid)
        return "spawner killed"

    def _kill_shims(self, chance: random.Random, _end: float) -> str:
        chosen = self._some_shims(chance, 8)
        for box_id, pid in chosen:
            with self._crowd.deeds.during("kill shim", box_id, pid):
                kill_pid(pid)
        return f"{len(chosen)} shims killed"

    def _kill_workloads(self, chance: random.Random, _end: float) -> str:
        """Some in the middle of their lives, which then is how they ended; of others whatever is innermost."""
        chosen = self._some_shims(chance, 8)
        certain = 0
        for box_id, shim in chosen:
            pid = workload_of(shim) if chance.random() < 0.7 else None
            if pid is not None and is_stopped(pid) and is_alive(shim):
                what, victims = "kill workload", [pid]
                certain += 1
            else:
                what, victims = "kill below", sorted(descendants(shim))[-1:] if pid is None else [pid]
            with self._crowd.deeds.during(what, box_id, shim):
                for victim in victims:
                    kill_pid(victim)
        return f"{len(chosen)} workloads killed, {certain} of them while they certainly lived"

    def _hold_shims(self, chance: random.Random, end: float) -> str:
        chosen = self._some_shims(chance, 8)
        for _box, pid in chosen:
            self._hold(pid, end)
        return f"{len(chosen)} shims held"

    def _hold_the_spawner(self, _chance: random.Random, end: float) -> str:
        for pid in children(self._pid):
            self._hold(pid, end)
        return "spawner held"

    def _hold(self, pid: int, end: float) -> None:
        send(pid, signal.SIGSTOP)
        self._held.append((end, pid))

    # -- what runs out

    def _fill_the_disk(self, _chance: random.Random, end: float) -> str:
        """No file of the daemon's may grow, or begin: as on a disk without a free block."""
        self._crowd.disk_is_bad = True
        self._limit(resource.RLIMIT_FSIZE, 0, end)
        return "the daemon's files may not grow"

    def _fail_the_disk(self, chance: random.Random, end: float) -> str:
        self._crowd.disk_is_bad = True
        error = chance.choice(("ENOSPC", "EIO"))
        argv = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", "trace=pwrite64,fsync,fdatasync,mkdir,renameat,rename"]
        argv += ["-e", f"inject=pwrite64,fsync,fdatasync,mkdir,renameat,rename:error={error}", "-p", str(self._pid)]
        with suppress(FileNotFoundError):
            self._tracers.append((end, subprocess.Popen(argv, stderr=subprocess.DEVNULL)))
        return f"writes, syncs, renames and new directories of the daemon fail with {error}"

    def _fail_the_forks(self, _chance: random.Random, end: float) -> str:
        calls = "clone,clone3,fork,vfork"
        for pid in children(self._pid):
            argv = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
            argv += ["-e", f"inject={calls}:error=ENOMEM", "-p", str(pid)]
            with suppress(FileNotFoundError):
                self._tracers.append((end, subprocess.Popen(argv, stderr=subprocess.DEVNULL)))
        return "no fork of the spawner has memory"

    def _take_the_descriptors(self, chance: random.Random, end: float) -> str:
        used = len(os.listdir(f"/proc/{self._pid}/fd"))
        spare = chance.randrange(4)
        self._limit(resource.RLIMIT_NOFILE, used + spare, end)
        return f"{spare} descriptors are left to the daemon"

    def _limit(self, which: int, soft: int, end: float) -> None:
        before = resource.prlimit(self._pid, which)
        if all(limit[1:3] != (self._pid, which) for limit in self._limits):
            self._limits.append((end, self._pid, which, before))
            resource.prlimit(self._pid, which, (soft, before[1]))

    # -- what lies in the directories

    def _put_a_foreign_file(self, chance: random.Random, _end: float) -> str:
        """Beside a box, alive or not: what its owner may do at any time."""
        directory = self._some_directory(chance)
        if directory is None:
            return "no box"
        kind = chance.choice(("torn", "fifo", "link", "directory", "junk"))
        target = directory / ("exit" if kind != "junk" else "junk.bin")
        with suppress(OSError), self._crowd.deeds.during("damage" if kind != "junk" else "junk", directory.name):
            if kind == "fifo":
                os.mkfifo(target)
            elif kind == "link":
                target.symlink_to("/etc/passwd")
            elif kind == "directory":
                target.mkdir()
            else:
                write(target, chance.choice(CONTENTS))
        return f"{kind} put at {target.name} of {directory.name}"

    def _put_a_foreign_directory(self, chance: random.Random, _end: float) -> str:
        name = chance.choice(("stray", str(chance.randrange(10**9)), "b" * 16, "x\ny"))
        with suppress(OSError):
            (self._daemon.home / "boxes" / name).mkdir()
        return f"boxes/{name!r} made"

    def _tear_a_dead_boxs_file(self, chance: random.Random, _end: float) -> str:
        """The pid file of a box that was stopped; that of a live one is the only trace of it over a restart."""
        stopped = [place for place in self._crowd.places if place.is_stopped and place.box_id is not None]
        for place in chance.sample(stopped, min(3, len(stopped))):
            if place.lock.acquire(blocking=False):
                try:
                    if place.is_stopped and place.box_id is not None:
                        path = self._daemon.box_dir(place.box_id) / "shim.pid"
                        content = chance.choice((*CONTENTS, b"%d\n1\n" % self._daemon.sentinels[0].pid, b"1\n2\n"))
                        with suppress(OSError):
                            path.write_bytes(content)
                        return f"shim.pid of {place.box_id} torn"
                finally:
                    place.lock.release()
        return "no stopped box"

    # -- choosing

    @property
    def _pid(self) -> int:
        assert self._daemon.process is not None
        return self._daemon.process.pid

    def _some_shims(self, chance: random.Random, most: int) -> list[tuple[str, int]]:
        shims = sorted(self._daemon.shims())
        return chance.sample(shims, min(len(shims), chance.randint(1, most)))

    def _some_directory(self, chance: random.Random) -> Path | None:
        known = sorted(place.box_id for place in self._crowd.places if place.box_id is not None)
        return self._daemon.box_dir(chance.choice(known)) if known else None


def doubles(daemon: Daemon) -> Iterator[str]:
    """Boxes that have two live shims at one moment: both are seen alive after both were found."""
    found: dict[str, list[int]] = {}
    for box_id, pid in daemon.shims():
        found.setdefault(box_id, []).append(pid)
    for box_id, pids in found.items():
        if len(pids) > 1 and sum(is_alive(pid) for pid in pids) > 1 and all(is_alive(pid) for pid in pids):
            yield f"2: box {box_id} has the live shims {pids}"
