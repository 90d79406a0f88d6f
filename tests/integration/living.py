"""The real daemon beside the model: brings things about, follows what becomes of boxes, checks what must hold.

`test_model_of_a_life.py` adds what may happen. What it draws must not depend on what came about, which may be
either of two things: so boxes are picked by their place, and one that is missing is made.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from boxlited.client import Client
from boxlited.errors import BoxlitedError, InvalidState
from tests.integration.daemon_harness import Daemon, is_alive, until
from tests.integration.life import GONE, MAY_FOLLOW, OPERATIONS, Life, Policy

# The workload waits for a number in a pipe and ends with it.
WAITS = 'test -p "$0" || mkfifo -m 600 "$0"; read code <"$0"; exit "$code"'


class Living(RuleBasedStateMachine):
    daemon: Daemon  # one for all examples: each begins and ends without a box

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, Life] = {}
        self.pids: dict[str, int] = {}
        self.run_ids: dict[str, str | None] = {}
        self.names: dict[str, str] = {}
        self.seq = self.daemon.client.last_event_seq()
        self.last_kind: dict[str, str] = {}
        self.told: Counter[tuple[str, str]] = Counter()
        self.count = 0
        self.step_began = time.monotonic()

    # -- what must hold

    @invariant()
    def the_api_says_what_the_model_says(self) -> None:
        boxes = {box["box_id"]: box for box in self.daemon.client.list()}
        assert set(boxes) == set(self.lives)
        for box_id, life in self.lives.items():
            assert self._agrees(boxes[box_id], life), f"{boxes[box_id]} is not {life}"
        self.step_began = time.monotonic()

    @invariant()
    def each_running_box_has_one_shim_and_no_other_has_any(self) -> None:
        shims = self.daemon.shims()
        running = {box_id for box_id, life in self.lives.items() if life.status == "running"}
        assert sorted(box_id for box_id, _pid in shims) == sorted(running)
        assert all(self.pids[box_id] == pid for box_id, pid in shims)
        assert all(sentinel.poll() is None for sentinel in self.daemon.sentinels), "a stranger was signalled"

    @invariant()
    def the_event_log_has_no_gap_and_no_step_that_cannot_be(self) -> None:
        with self.daemon.client.events(self.seq, follow=False) as events:
            for event in events:
                assert event["seq"] == self.seq + 1, f"a gap before {event}"
                self.seq = event["seq"]
                self._check_event(event)

    def teardown(self) -> None:
        for box in self.daemon.client.list():
            self.daemon.client.remove(box["box_id"], force=True)
        until(lambda: not self.daemon.shims(), "no shim is left")
        assert list((self.daemon.home / "boxes").iterdir()) == []

    # -- boxes

    def spec(self, engine: str, policy: Policy) -> dict[str, Any]:
        self.count += 1
        name = f"box-{os.getpid()}-{self.seq}-{self.count}"
        pipe = "/root/end" if engine == "sandbox" else str(self.daemon.root / name)
        self.names[name] = pipe
        cmd = ["/bin/sh", "-c", WAITS, pipe]
        return {"image": "host", "engine": engine, "name": name, "cmd": cmd, "restart": policy.spec()}

    def know(self, box: Any, policy: Policy) -> str:
        box_id = str(box["box_id"])
        self.lives[box_id] = Life(policy)
        self.names[box_id] = self.names[box["name"]]
        return box_id

    def make(self, engine: str, policy: Policy, *, start: bool) -> str:
        box_id = self.know(self.daemon.client.create(self.spec(engine, policy)), policy)
        if start:
            self.daemon.client.start(box_id)
            self.follow(box_id, (Life(policy).started(),))
        return box_id

    def pick(self, place: int, fits: Callable[[Life], bool] = lambda _life: True, policy: Policy = Policy()) -> str:
        """One that fits; where there is none, a new one that runs."""
        ids = [box_id for box_id, life in self.lives.items() if fits(life)]
        return ids[place % len(ids)] if ids else self.make("sandbox", policy, start=True)

    # -- what is done

    def restart(self, env: dict[str, str] | None = None) -> None:
        self.daemon.kill9()
        self.daemon.start(env)

    def attempt(self, operation: str, box_id: str) -> bool:
        """Whether the request was answered with success."""
        with Client(self.daemon.socket, retry_seconds=0) as client:
            try:
                OPERATIONS[operation][0](client, box_id)
            except InvalidState as error:
                if operation != "kill":
                    raise AssertionError(f"{operation} was refused: {error.message}") from error
                return False
            except BoxlitedError:
                return False
        return True

    def while_down(self, down: bool, act: Callable[[], None], shim: int) -> None:
        """Something happens; with `down` it has happened before the next daemon looks."""
        if down:
            self.daemon.kill9()
        act()
        until(lambda: not is_alive(shim), "the shim ends")
        if down:
            self.daemon.start()

    def let_end(self, box_id: str, code: int, down: bool) -> None:
        pipe = self.names[box_id]
        path = self.daemon.box_dir(box_id) / "upper" / "end" if pipe == "/root/end" else Path(pipe)

        def write() -> bool:
            with suppress(OSError):  # nobody reads yet
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                try:
                    return os.write(fd, b"%d\n" % code) > 0
                finally:
                    os.close(fd)
            return False

        self.while_down(down, lambda: until(write, "the workload reads") and None, self.pids[box_id])

    # -- what becomes of it

    def ended(self, box_id: str, status: str, cause: str, code: int | None = None) -> None:
        """What follows an end; and the policy says what it does."""
        self.follow(box_id, self.lives[box_id].ended(status, cause, code))
        life = self.lives[box_id]
        if life.gave_up or life.waits:
            said = "gave_up" if life.gave_up else "restarting"
            self.hear(lambda: self.last_kind[box_id] == said, f"{said} is the last that is said of box {box_id}")

    def hear(self, holds: Callable[[], bool], what: str) -> None:
        """Read the event log until something holds."""

        def is_said() -> bool:
            self.the_event_log_has_no_gap_and_no_step_that_cannot_be()
            return holds()

        until(is_said, what)

    def follow(self, box_id: str, lives: tuple[Life, ...]) -> None:
        """Wait until the box is what it may be, and take that for the model."""

        def settled() -> Life | None:
            view = {box["box_id"]: box for box in self.daemon.client.list()}.get(box_id)
            for life in lives:
                if view is None and life is GONE:
                    return life
                if view is not None and self._agrees(view, life):
                    self.pids[box_id], self.run_ids[box_id] = view["pid"], view["run_id"]
                    since = life.since if life.runs == self.lives[box_id].runs else self.step_began
                    return replace(life, code=view["exit_code"], since=since, not_before=0.0)
            return None

        life = until(settled, f"box {box_id} becomes one of {lives}; it is {self.daemon.table().get(box_id)}")
        if life is None or life.status == "gone":
            self.lives.pop(box_id)
        else:
            self.lives[box_id] = life

    def _agrees(self, view: Any, life: Life) -> bool:
        if view["status"] != life.status or time.monotonic() < life.not_before:
            return False
        if view["desired"] != ("running" if life.status == "running" or life.waits else "stopped"):
            return False
        if life.status == "running":
            same_run = life.runs == self.lives[view["box_id"]].runs
            kept = view["run_id"] == self.run_ids.get(view["box_id"])
            return same_run == kept and view["restart_count"] == life.restarts
        return view["stop_cause"] == life.cause and view["exit_code"] in life.codes

    def _check_event(self, event: Any) -> None:
        box_id = event["box_id"]
        if box_id is None:
            assert event["kind"] in ("daemon_started", "daemon_stopped", "warning"), event
            return
        if event["kind"] == "warning":
            return
        before = self.last_kind.get(box_id)
        assert event["kind"] in MAY_FOLLOW[before], f"{event['kind']} after {before}: {event}"
        if event["kind"] == "starting" and event["data"]["restart_count"]:
            assert before == "restarting", f"a policy that does not say what it does: {event}"
        self.last_kind[box_id] = event["kind"]
        self.told[box_id, event["kind"]] += 1
