"""`make demo`: kill the daemon, crash a box while it is down, restart, and lose nothing.

A story on the screen with real processes, in a temporary home that is gone afterwards.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from boxlited.client.client import Client
from boxlited.client.values import BoxInfo
from boxlited.errors import BoxlitedError
from boxlited.model import BoxID
from boxlited.supervisor.layout import HomeLayout

DEADLINE_SECONDS = 20.0
CRASHER = "echo 'about to go wrong'; while [ ! -e /root/crash ]; do sleep 0.05; done; kill -ABRT $$"


class Stage:
    """The daemon on stage and its home."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="bxd"))
        self.home = self.root / "home"
        self.socket = self.root / "s.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(self.home)]
        argv += ["--socket", str(self.socket), "--log-level", "warning", "--log-format", "console"]
        self.daemon = subprocess.Popen(argv, start_new_session=True)
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            with suppress(BoxlitedError), Client(self.socket) as client:
                client.health()
                return
            time.sleep(0.02)
        raise SystemExit("boxlited: the daemon did not answer; its words are above")

    def kill9(self) -> int:
        assert self.daemon is not None
        pid = self.daemon.pid
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        self.daemon = None
        return pid

    def close(self) -> None:
        with suppress(BoxlitedError), Client(self.socket) as client:
            for box in client.list():
                client.remove(box["box_id"], force=True)
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def say(text: str) -> None:
    print(f"\n\033[1m==> {text}\033[0m" if sys.stdout.isatty() else f"\n==> {text}", flush=True)


def show(boxes: list[BoxInfo]) -> None:
    for box in boxes:
        pid = box["pid"] or "-"
        print(f"    {box['name']:<8} {box['status']:<9} shim pid {pid!s:<8} {box['failure_reason'] or ''}", flush=True)


def main() -> int:
    stage = Stage()
    try:
        return play(stage)
    except BoxlitedError as error:
        print(f"boxlited: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        stage.close()


def play(stage: Stage) -> int:
    say("A daemon, two boxes that sleep, and one that will crash when it is told to")
    stage.start()
    with Client(stage.socket) as client:
        for name in ("web", "worker"):
            client.create({"name": name, "image": "host", "cmd": ["sleep", "100000"]})
            client.start(name)
        crasher = client.create({"name": "crasher", "image": "host", "cmd": ["sh", "-c", CRASHER]})
        client.start("crasher")
        before = client.list()
    show(before)

    say(f"kill -9 of the daemon (pid {stage.kill9()}): the boxes live on")
    for box in before:
        print(f"    {box['name']:<8} shim pid {box['pid']} {'lives' if _lives(box['pid']) else 'IS DEAD'}")

    say("While nobody watches, crasher aborts (SIGABRT)")
    (HomeLayout(stage.home).box(BoxID.parse(crasher["box_id"])).upper_dir / "crash").touch()
    shim = next(box["pid"] for box in before if box["name"] == "crasher")
    end = time.monotonic() + DEADLINE_SECONDS
    while _lives(shim) and time.monotonic() < end:
        time.sleep(0.02)
    print(f"    shim pid {shim} has ended; its exit file waits on disk")

    say("The daemon starts again, and answers only when it knows")
    began = time.monotonic()
    stage.start()
    print(f"    ready after {time.monotonic() - began:.2f} s")
    with Client(stage.socket) as client:
        after = client.list()
        show(after)
        say("Why it died, in its own words (`boxctl crash crasher`)")
        print(f"    {client.crash('crasher')['user_message']}")
    say("Nothing was lost" if _same(before, after) else "SOMETHING WAS LOST; this is a bug")
    return 0 if _same(before, after) else 1


def _same(before: list[BoxInfo], after: list[BoxInfo]) -> bool:
    """web and worker run on under the same shims; crasher failed and says why."""
    rows = {box["name"]: box for box in after}
    alive = all(
        rows[box["name"]]["status"] == "running" and rows[box["name"]]["pid"] == box["pid"]
        for box in before
        if box["name"] != "crasher"
    )
    crash = rows["crasher"]
    return alive and crash["status"] == "failed" and "SIGABRT" in (crash["failure_reason"] or "")


def _lives(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


if __name__ == "__main__":
    os.environ.pop("BOXLITED_FAILPOINTS", None)
    raise SystemExit(main())
