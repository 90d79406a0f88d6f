"""Any sequence of what may befall boxes, against a model of a box's life that fits on a screen.

The daemon is the real one. It is killed between any two steps, at named points in the midst of a request,
and at any moment of several requests at once; boxes end by themselves, are killed, and lose their shims,
also while there is no daemon. After each step what the API says is what the model says, each box has at most
one live shim, nobody else was signalled, and the event log has no gap and no step that cannot be.

A request that was cut has two possible outcomes, and the model follows the one that came about; one that was
answered has one. `BOXLITED_MODEL_EXAMPLES` and `BOXLITED_MODEL_STEPS` make the search longer;
`BOXLITED_MODEL_SEED` makes it another one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from boxlited.client import Client
from boxlited.errors import BoxlitedError, InvalidState
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, until
from tests.integration.test_lifecycle import workload_of

EXAMPLES = int(os.environ.get("BOXLITED_MODEL_EXAMPLES", "5"))
STEPS = int(os.environ.get("BOXLITED_MODEL_STEPS", "12"))
SEED = os.environ.get("BOXLITED_MODEL_SEED")
MAX_BOXES = 3
CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.3\n"

# The workload waits for a number in a pipe and ends with it.
WAITS = 'test -p "$0" || mkfifo -m 600 "$0"; read code <"$0"; exit "$code"'


@dataclass(frozen=True)
class Life:
    """The model. `code` None: there is none, or none is promised."""

    status: str = "configured"
    cause: str | None = None
    code: int | None = None

    def started(self) -> Life:
        return self if self.status == "running" else Life("running")

    def ended(self, status: str, cause: str, code: int | None = None) -> Life:
        return Life(status, cause, code) if self.status == "running" else self

    def stopped(self) -> Life:
        return self.ended("stopped", "user")


GONE = Life("gone")
OPERATIONS: dict[str, tuple[Callable[[Client, str], Any], Callable[[Life], tuple[Life, ...]]]] = {
    # name: the request, and the lives that it leads through: the last when it is answered, any when it is cut
    "start": (lambda client, ref: client.start(ref), lambda life: (life.started(),)),
    "stop": (lambda client, ref: client.stop(ref, 5), lambda life: (life.stopped(),)),
    "kill": (lambda client, ref: client.kill(ref), lambda life: (life.stopped(),)),
    "restart": (lambda client, ref: client.restart(ref, 5), lambda life: (life.stopped(), life.stopped().started())),
    "remove": (lambda client, ref: client.remove(ref, force=True), lambda life: (life.stopped(), GONE)),
    "exec": (lambda client, ref: client.exec(ref, "/bin/true"), lambda life: (life.started(),)),
}
POINTS = {
    "start": ("start.after_intent", "start.after_spawn", "start.after_ready"),
    "exec": ("start.after_intent", "start.after_spawn", "start.after_ready"),
    "restart": (
        "stop.after_intent",
        "stop.after_signal",
        "apply.before_write",
        "apply.after_write",
        "start.after_intent",
        "start.after_spawn",
    ),
    "stop": ("stop.after_intent", "stop.after_signal", "apply.before_write", "apply.after_write"),
    "kill": ("stop.after_intent", "apply.before_write", "apply.after_write"),
    "remove": (
        "stop.after_intent",
        "apply.after_write",
        "remove.after_intent",
        "remove.after_rename",
        "remove.after_delete",
    ),
}
CREATE_POINTS = ("create.after_directory", "create.after_row")
MAY_FOLLOW = {  # what may come after what, of one box
    None: {"created", "quarantined"},  # the latter was never told of
    "created": {"starting", "removed"},
    "starting": {"started", "adopted", "failed", "starting", "stopping", "stopped", "removed", "warning"},
    "started": {"stopping", "stopped", "failed", "adopted", "signalled"},
    "adopted": {"stopping", "stopped", "failed", "adopted", "signalled"},
    "signalled": {"stopping", "stopped", "failed", "signalled"},
    "stopping": {"stopped", "failed", "removed"},
    "stopped": {"starting", "removed", "reset"},
    "failed": {"starting", "removed", "reset"},
    "warning": {"starting", "stopped", "removed", "failed", "adopted"},
    "removed": set(),
    "quarantined": set(),
}


class Boxes(RuleBasedStateMachine):
    daemon: Daemon  # one for all examples: each begins and ends without a box

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, Life] = {}
        self.pids: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.seq = self.daemon.client.last_event_seq()
        self.last_kind: dict[str, str] = {}
        self.count = 0

    @initialize(engines=st.lists(st.sampled_from(["sandbox", "process"]), min_size=1, max_size=MAX_BOXES - 1))
    def begin(self, engines: list[str]) -> None:
        """Little happens to a box that does not run: some do from the beginning."""
        for engine in engines:
            box = self.daemon.client.create(self._spec(engine))
            self._know(box)
            self.daemon.client.start(box["box_id"])
            self._follow(box["box_id"], (Life("running"),))

    # -- what may happen

    @precondition(lambda self: len(self.lives) < MAX_BOXES)
    @rule(engine=st.sampled_from(["sandbox", "process"]))
    def create(self, engine: str) -> None:
        self._know(self.daemon.client.create(self._spec(engine)))

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), operation=st.sampled_from(sorted(OPERATIONS)))
    def ask(self, data: st.DataObject, operation: str) -> None:
        """A request that is answered."""
        box_id = self._pick(data)
        if operation == "kill" and self.lives[box_id].status != "running":
            with pytest.raises(InvalidState):
                self.daemon.client.kill(box_id)
            return
        OPERATIONS[operation][0](self.daemon.client, box_id)
        self._follow(box_id, OPERATIONS[operation][1](self.lives[box_id])[-1:])

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), operation=st.sampled_from(sorted(OPERATIONS)))
    def ask_and_die(self, data: st.DataObject, operation: str) -> None:
        """A request in the midst of which the daemon dies, where it gets that far."""
        box_id, point = self._pick(data), data.draw(st.sampled_from(POINTS[operation]))
        before = self.lives[box_id]
        self._restart({"BOXLITED_FAILPOINTS": f"{point}=kill"})
        answered = self._try(operation, box_id)
        self._restart()
        after = OPERATIONS[operation][1](before)
        self._follow(box_id, after[-1:] if answered else (before, *after))

    @rule(point=st.sampled_from(CREATE_POINTS))
    @precondition(lambda self: len(self.lives) < MAX_BOXES)
    def create_and_die(self, point: str) -> None:
        self._restart({"BOXLITED_FAILPOINTS": f"{point}=kill"})
        spec = self._spec("sandbox")
        with Client(self.daemon.socket, retry_seconds=0) as client, pytest.raises(BoxlitedError):
            client.create(spec)
        self._restart()
        for box in self.daemon.client.list():
            if box["name"] == spec["name"]:
                self._know(box)

    @precondition(lambda self: len(self.lives) > 1)
    @rule(data=st.data(), delay=st.sampled_from([None, 0.0, 0.01, 0.05]))
    def ask_at_once(self, data: st.DataObject, delay: float | None) -> None:
        """A request to each box at the same time; with a delay (seconds), the daemon is killed meanwhile."""
        chosen = {
            box_id: data.draw(st.sampled_from(["start", "stop", "restart", "remove", "exec"])) for box_id in self.lives
        }
        answers: dict[str, bool] = {}
        threads = [
            threading.Thread(target=lambda box_id=box_id, name=name: answers.update({box_id: self._try(name, box_id)}))
            for box_id, name in chosen.items()
        ]
        for thread in threads:
            thread.start()
        if delay is not None:
            threads[0].join(delay)
            self.daemon.kill9()
        for thread in threads:
            thread.join(60)
        if delay is not None:
            self.daemon.start()
        for box_id, name in chosen.items():
            before = self.lives[box_id]
            after = OPERATIONS[name][1](before)
            self._follow(box_id, after[-1:] if answers[box_id] else (before, *after))

    @precondition(lambda self: self._running())
    @rule(data=st.data(), code=st.sampled_from([0, 1, 3, 137, 255]), down=st.booleans())
    def end(self, data: st.DataObject, code: int, down: bool) -> None:
        """A box ends by itself."""
        box_id = self._pick(data, running=True)
        self._let_end(box_id, code, down)
        self._follow(box_id, (self.lives[box_id].ended("stopped", "exited", code),))

    @precondition(lambda self: self._running())
    @rule(data=st.data(), down=st.booleans(), number=st.sampled_from([signal.SIGKILL, signal.SIGSEGV]))
    def kill_workload(self, data: st.DataObject, down: bool, number: int) -> None:
        box_id = self._pick(data, running=True)
        workload = workload_of(self.pids[box_id])
        self._while_down(down, lambda: signal.pidfd_send_signal(os.pidfd_open(workload), number), self.pids[box_id])
        self._follow(box_id, (self.lives[box_id].ended("failed", "crashed", 128 + number),))

    @precondition(lambda self: self._running())
    @rule(data=st.data(), down=st.booleans())
    def kill_shim(self, data: st.DataObject, down: bool) -> None:
        """Seen by the daemon it is a crash; unseen, nobody knows what it was, and that is what is said."""
        box_id = self._pick(data, running=True)
        pid = self.pids[box_id]
        self._while_down(down, lambda: kill_pid(pid), pid)
        life = self.lives[box_id]
        self._follow(box_id, (life.ended("stopped", "lost") if down else life.ended("failed", "shim_killed"),))

    @rule()
    def kill_daemon(self) -> None:
        self._restart()

    # -- what must hold

    @invariant()
    def the_api_says_what_the_model_says(self) -> None:
        boxes = {box["box_id"]: box for box in self.daemon.client.list()}
        assert set(boxes) == set(self.lives)
        for box_id, life in self.lives.items():
            self._check_view(boxes[box_id], life)

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

    # -- inside

    def _spec(self, engine: str) -> dict[str, Any]:
        self.count += 1
        name = f"box-{os.getpid()}-{self.seq}-{self.count}"
        pipe = "/root/end" if engine == "sandbox" else str(self.daemon.root / name)
        self.names[name] = pipe
        return {"image": "host", "engine": engine, "name": name, "cmd": ["/bin/sh", "-c", WAITS, pipe]}

    def _know(self, box: Any) -> None:
        self.lives[box["box_id"]] = Life()
        self.names[box["box_id"]] = self.names[box["name"]]

    def _pick(self, data: st.DataObject, running: bool = False) -> str:
        """By its place, so that the same choices lead to the same run, whatever the ids are."""
        ids = self._running() if running else list(self.lives)
        return ids[data.draw(st.integers(0, len(ids) - 1))]

    def _running(self) -> list[str]:
        return [box_id for box_id, life in self.lives.items() if life.status == "running"]

    def _restart(self, env: dict[str, str] | None = None) -> None:
        self.daemon.kill9()
        self.daemon.start(env)

    def _try(self, operation: str, box_id: str) -> bool:
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

    def _while_down(self, down: bool, act: Callable[[], None], shim: int) -> None:
        """Something happens; with `down` it has happened before the next daemon looks."""
        if down:
            self.daemon.kill9()
        act()
        until(lambda: not is_alive(shim), "the shim ends")
        if down:
            self.daemon.start()

    def _let_end(self, box_id: str, code: int, down: bool) -> None:
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

        self._while_down(down, lambda: until(write, "the workload reads") and None, self.pids[box_id])

    def _follow(self, box_id: str, lives: tuple[Life, ...]) -> None:
        """Wait until the box is what it may be, and take that for the model."""

        def settled() -> Life | None:
            view = {box["box_id"]: box for box in self.daemon.client.list()}.get(box_id)
            for life in lives:
                if view is None and life is GONE:
                    return life
                if view is not None and self._agrees(view, life):
                    self.pids[box_id] = view["pid"]
                    return replace(life, code=view["exit_code"])
            return None

        life = until(settled, f"box {box_id} becomes one of {lives}; it is {self.daemon.table().get(box_id)}")
        if life is None or life.status == "gone":
            self.lives.pop(box_id)
        else:
            self.lives[box_id] = life

    def _agrees(self, view: Any, life: Life) -> bool:
        same = view["status"] == life.status and (life.status == "running" or view["stop_cause"] == life.cause)
        return same and life.code in (None, view["exit_code"])

    def _check_view(self, view: Any, life: Life) -> None:
        assert self._agrees(view, life), f"{view} is not {life}"
        assert view["desired"] == ("running" if life.status == "running" else "stopped"), view

    def _check_event(self, event: Any) -> None:
        box_id = event["box_id"]
        if box_id is None:
            assert event["kind"] in ("daemon_started", "daemon_stopped", "warning"), event
            return
        if event["kind"] == "warning":
            return
        before = self.last_kind.get(box_id)
        assert event["kind"] in MAY_FOLLOW[before], f"{event['kind']} after {before}: {event}"
        self.last_kind[box_id] = event["kind"]


@pytest.mark.timeout(600 * max(1, EXAMPLES // 4))
def test_whatever_befalls_boxes_they_are_what_the_model_says() -> None:
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=SEED is None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    with Daemon(CONFIG) as daemon:
        Boxes.daemon = daemon.start()
        machine = Boxes if SEED is None else seed(int(SEED))(Boxes)
        run_state_machine_as_test(machine, settings=chosen)
