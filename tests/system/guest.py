"""The system inside, as an administrator sees it: commands, units, the API over its socket, the journal.

Every wait has a deadline and waits for something that is to be seen.
"""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.system.agent import Agent, GuestError

SOCKET = "/run/boxlited/boxlited.sock"
PYTHON = "/opt/boxlited/bin/python"
INSIDE = Path(__file__).parent / "inside"
REPOSITORY = Path(__file__).parents[2]
SHARED = [REPOSITORY / "tests" / "integration" / name for name in ("leftovers.py", "cgroups.py")]
PROGRAMS = "/root/programs"
RUN_SECONDS = 120.0
UNTIL_SECONDS = 120.0
GRACE_SECONDS = 20.0
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]

T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Process:
    """A process of the guest. (pid, started) names it."""

    pid: int
    parent: int
    started: int
    name: str


class Guest:
    def __init__(self, agent: Agent, check: Callable[[], None]) -> None:
        self._agent = agent
        self._check = check

    # -- commands

    def begin(self, script: str, seconds: float = RUN_SECONDS) -> int:
        """Start a shell script and do not wait for it. It is killed in the guest after `seconds`."""
        arguments = ["-k", "5", f"{seconds:g}", "/bin/bash", "-c", script]
        started = self._agent.call(
            "guest-exec", path="/usr/bin/timeout", arg=arguments, env=ENVIRONMENT, capture_output=True
        )
        return int(started["pid"])

    def finish(self, number: int, seconds: float = RUN_SECONDS) -> Done:
        """Wait for what `begin` started."""
        end, pause = time.monotonic() + seconds + GRACE_SECONDS, 0.01
        while True:
            state = self._agent.call("guest-exec-status", pid=number)
            if state["exited"]:
                break
            self._check()
            if time.monotonic() > end:
                raise GuestError(f"command {number} did not end")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        texts = [base64.b64decode(state.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data")]
        return Done(state.get("exitcode", 128 + state.get("signal", 0)), *texts)

    def run(self, script: str, seconds: float = RUN_SECONDS, *, check: bool = True) -> Done:
        """A shell script in the guest. Raises GuestError when it fails, unless told not to."""
        done = self.finish(self.begin(script, seconds), seconds)
        if check and done.code:
            raise GuestError(f"{script!r} ended with {done.code}: {done.out[-1500:]}{done.err[-1500:]}")
        return done

    def say(self, script: str, seconds: float = RUN_SECONDS) -> str:
        return self.run(script, seconds).out.strip()

    def put(self, path: str, content: str) -> None:
        self.run(f"mkdir -p $(dirname {shlex.quote(path)})")
        self._agent.write_file(path, content.encode())

    def program(self, name: str) -> str:
        """Put the programs of `inside/` into the guest, with what they need; returns the command that runs this one."""
        self.run(f"mkdir -p {PROGRAMS}/tests/integration")
        for path in INSIDE.glob("*.py"):
            self._agent.write_file(f"{PROGRAMS}/{path.name}", path.read_bytes())
        for path in SHARED:
            self._agent.write_file(f"{PROGRAMS}/{path.relative_to(REPOSITORY)}", path.read_bytes())
        return f"env PYTHONPATH={PROGRAMS} {PYTHON} {PROGRAMS}/{name}"

    def until(self, look: Callable[[], T], what: str, seconds: float = UNTIL_SECONDS) -> T:
        """Poll until `look` gives something true; fails with `what` at the deadline."""
        end = time.monotonic() + seconds
        while True:
            value = look()
            if value:
                return value
            assert time.monotonic() < end, f"timed out: {what}"
            time.sleep(0.1)

    # -- the system

    def boot_id(self) -> str:
        return self.say("cat /proc/sys/kernel/random/boot_id")

    def unit(self, *properties: str, unit: str = "boxlited.service") -> dict[str, str]:
        """Properties of a unit, as systemd has them now."""
        shown = self.say(f"systemctl show -p {','.join(properties)} {unit}")
        return dict(line.split("=", 1) for line in shown.splitlines())

    def main_pid(self) -> int:
        return int(self.unit("MainPID")["MainPID"])

    def processes(self) -> dict[int, Process]:
        """Every process of the guest that is no zombie."""
        found = {}
        for line in self.run("cat /proc/[0-9]*/stat 2>/dev/null", check=False).out.splitlines():
            head, _, tail = line.rpartition(")")
            pid, _, name = head.partition(" (")
            fields = tail.split()
            if fields[0] not in ("Z", "X"):
                found[int(pid)] = Process(int(pid), int(fields[1]), int(fields[19]), name)
        return found

    def journal(self, unit: str = "boxlited", since: str | None = None) -> str:
        """What a unit and systemd about it have said in this boot, after the cursor `since`."""
        after = f"--after-cursor={shlex.quote(since)}" if since else ""
        return self.run(f"journalctl --no-pager -q -b -o short-monotonic -u {unit} {after}", check=False).out

    def journal_cursor(self, unit: str = "boxlited") -> str:
        """That of the unit's newest entry: after one of another unit, journalctl leaves out the first of this."""
        shown = self.say(f"journalctl --sync; journalctl --no-pager -q -b -u {unit} -n 1 --show-cursor")
        return shown.rpartition("-- cursor: ")[2].strip()

    # -- the API

    def call(
        self, method: str, path: str, body: object = None, *, socket: str = SOCKET, prefix: str = ""
    ) -> tuple[int, Any]:
        """One request to the daemon: status and decoded body. `prefix` are words before the command."""
        data = "" if body is None else f"--data-binary {shlex.quote(json.dumps(body))}"
        done = self.run(
            f"{prefix} curl -sS --max-time 90 -X {method} {data} --unix-socket {socket}"
            f" -w '\\n%{{http_code}}' {shlex.quote('http://localhost' + path)}"
        )
        text, _, status = done.out.rpartition("\n")
        try:
            return int(status), json.loads(text) if text.strip() else None
        except ValueError:
            return int(status), text

    def ask(self, method: str, path: str, body: object = None, **where: str) -> Any:
        """The body of a reply that must be a good one."""
        status, reply = self.call(method, path, body, **where)
        assert 200 <= status < 300, f"{method} {path}: {status} {reply}"
        return reply
