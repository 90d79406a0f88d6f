"""What is measured of commands and files in boxes: each beside its floor or its bound, in the same run."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.stage import daemon, milliseconds, timed
from boxlited.client.client import Client
from boxlited.supervisor.engines import bwrap_path
from tests.integration.daemon_harness import Daemon

Row = dict[str, Any]
MEGABYTE = 1_000_000
PIECE = 1 << 20


def commands(scale: float) -> list[Row]:
    """`true` in a running box: request -> exit code in hand; beside a new bubblewrap that runs it."""
    there, floor = [], []
    with daemon() as one:
        box = one.run()["box_id"]
        for _ in range(int(100 * scale) + 5):
            there.append(timed(lambda: one.client.run_command(box, ["true"])))
            floor.append(timed(_bare_true))
    ratio = round(milliseconds(there)["median_ms"] / milliseconds(floor)["median_ms"], 2)
    return [
        {"row": "bare bwrap: true (floor)", **milliseconds(floor[5:])},
        {
            "row": "exec of true in a box, round trip",
            **milliseconds(there[5:]),
            "ratio": ratio,
            "bound": "<= 10 ms",
        },
    ]


def _bare_true() -> None:
    argv = [bwrap_path(), "--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"]
    subprocess.run([*argv, "--symlink", "usr/lib64", "/lib64", "/usr/bin/true"], check=True, timeout=30)


def output(scale: float) -> list[Row]:
    """100 MB of stdout through an attachment; beside the same program and one pipe."""
    size = int(100 * MEGABYTE * scale)
    rates, floors = [], []
    with daemon() as one:
        box = one.run()["box_id"]
        for _ in range(7):
            floors.append(size / timed(lambda: _through_a_pipe(size)) / MEGABYTE)
            rates.append(size / timed(lambda: _attached(one, box, size)) / MEGABYTE)
    rates.sort()
    floors.sort()
    return [
        {"row": f"{size // MEGABYTE} MB of stdout, one pipe (floor)", "value": f"{floors[3]:.0f} MB/s"},
        {
            "row": f"{size // MEGABYTE} MB of stdout, attached",
            "value": f"{rates[3]:.0f} MB/s ({rates[0]:.0f} to {rates[-1]:.0f})",
            "bound": ">= 200 MB/s",
        },
    ]


def _through_a_pipe(size: int) -> None:
    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while process.stdout.read(256 * 1024):
            pass


def _attached(one: Daemon, box: str, size: int) -> None:
    started = one.client.exec(box, "head", "-c", str(size), "/dev/zero")
    seen = 0
    with one.client.attach(box, started["execution_id"]) as attachment:
        for _channel, data in attachment:
            seen += len(data)
    if seen != size:
        raise RuntimeError(f"{seen} of {size} bytes arrived")


def crowd(scale: float) -> list[Row]:
    """100 commands at once in one box, 1 MB of output each: every byte, by checksum."""
    count = max(10, int(100 * scale))
    script = "import sys,hashlib; r=hashlib.shake_256(sys.argv[1].encode()).digest(10**6); sys.stdout.buffer.write(r)"
    with daemon() as one:
        box = one.run()["box_id"]

        def wrong(number: int) -> int:
            with Client(one.socket) as client:
                done = client.run_command(box, ["python3", "-c", script, str(number)])
            return done.stdout != hashlib.shake_256(str(number).encode()).digest(10**6)

        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            lost = sum(pool.map(wrong, range(count)))
            taken = time.perf_counter() - began
    return [
        {
            "row": f"{count} commands at once in one box, 1 MB each",
            "value": f"{lost} damaged, {taken:.1f} s together",
            "bound": "0 damaged",
        }
    ]


def files(scale: float) -> list[Row]:
    """A file of 1 GB into a box and out of it again: speed, and what the daemon's memory grows by."""
    size = int(1000 * MEGABYTE * scale)
    with daemon() as one:
        assert one.process is not None
        box = one.run()["box_id"]
        one.client.put_files(box, "/root/small", _tar(PIECE))
        before = _peak_kib(one.process.pid)
        into = timed(lambda: one.client.put_files(box, "/root/big", _tar(size)))
        out = timed(lambda: _drain(one, box, size))
        grown = _peak_kib(one.process.pid) - before
    return [
        {"row": f"{size // MEGABYTE} MB file into a box", "value": f"{size / into / MEGABYTE:.0f} MB/s"},
        {"row": f"{size // MEGABYTE} MB file out of a box", "value": f"{size / out / MEGABYTE:.0f} MB/s"},
        {
            "row": "daemon's peak memory grew by, over both",
            "value": f"{grown / 1024:.1f} MiB",
            "bound": "flat: <= 16 MiB",
        },
    ]


def _tar(size: int) -> Iterator[bytes]:
    member = tarfile.TarInfo("big")
    member.size = size
    yield member.tobuf()
    piece = bytes(PIECE)
    for start in range(0, size, PIECE):
        yield piece[: min(PIECE, size - start)]
    yield bytes(-size % 512 + 1024)


def _drain(one: Daemon, box: str, size: int) -> None:
    counted = 0
    with one.client.get_files(box, "/root/big") as stream:
        for chunk in stream:
            counted += len(chunk)
    if counted < size:
        raise RuntimeError(f"{counted} of {size} bytes arrived")


def _peak_kib(pid: int) -> int:
    for line in io.StringIO(Path(f"/proc/{pid}/status").read_text()):
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("no VmHWM in status")
