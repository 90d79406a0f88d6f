"""Any sequence of what may befall boxes, against a model of a box's life that fits on a screen (`life.py`).

The daemon is the real one. It is killed between any two steps, at named points in the midst of a request,
and at any moment of several requests at once; boxes end by themselves, are killed, and lose their shims,
also while there is no daemon; and restart policies act. After each step what the API says is what the model
says, each box has at most one live shim, nobody else was signalled, and the event log has no gap and no step
that cannot be.

A request that was cut has two possible outcomes, and the model follows the one that came about; one that was
answered has one. `BOXLITED_MODEL_EXAMPLES` and `BOXLITED_MODEL_STEPS` make the search longer;
`BOXLITED_MODEL_SEED` makes it another one.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from boxlited.client import Client
from boxlited.errors import BoxlitedError, InvalidState
from tests.integration.daemon_harness import Daemon, kill_pid, signal_pid
from tests.integration.life import CREATE_POINTS, GONE, OPERATIONS, POINTS, POLICIES, RESTART_POINTS, Life, Policy
from tests.integration.living import Living
from tests.integration.test_lifecycle import workload_of

EXAMPLES = int(os.environ.get("BOXLITED_MODEL_EXAMPLES", "4"))
STEPS = int(os.environ.get("BOXLITED_MODEL_STEPS", "12"))
SEED = os.environ.get("BOXLITED_MODEL_SEED")
MAX_BOXES = 3
CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.3\n"

PLACES = st.integers(0, MAX_BOXES - 1)
KINDS = st.tuples(st.sampled_from(["sandbox", "process"]), st.sampled_from(POLICIES))
CODES = st.sampled_from([0, 1, 3, 137, 255])
CUTS = st.sampled_from([(operation, point) for operation in sorted(POINTS) for point in POINTS[operation]])
AT_ONCE = st.sampled_from(["start", "stop", "restart", "remove", "exec"])


def runs(life: Life) -> bool:
    return life.status == "running"


def would_run_again(life: Life) -> bool:
    return runs(life) and runs(life.ended("stopped", "exited", 3)[0])


class Boxes(Living):
    @initialize(kinds=st.lists(KINDS, min_size=1, max_size=MAX_BOXES - 1))
    def begin(self, kinds: list[tuple[str, Policy]]) -> None:
        """Little happens to a box that does not run: some do from the beginning."""
        for engine, policy in kinds:
            self.make(engine, policy, start=True)

    @rule(kind=KINDS)
    def create(self, kind: tuple[str, Policy]) -> None:
        if len(self.lives) < MAX_BOXES:
            self.make(*kind, start=False)

    @rule(point=st.sampled_from(CREATE_POINTS), kind=KINDS)
    def create_and_die(self, point: str, kind: tuple[str, Policy]) -> None:
        self.daemon.set_failpoints(f"{point}=kill")
        spec = self.spec(*kind)
        with Client(self.daemon.socket, retry_seconds=0) as client, pytest.raises(BoxlitedError):
            client.create(spec)
        self.restart()
        for box in self.daemon.client.list():
            if box["name"] == spec["name"]:
                self.know(box, kind[1])

    @rule(place=PLACES, operation=st.sampled_from(sorted(OPERATIONS)))
    def ask(self, place: int, operation: str) -> None:
        """A request that is answered."""
        box_id = self.pick(place)
        if operation == "kill" and not runs(self.lives[box_id]):
            with pytest.raises(InvalidState):
                self.daemon.client.kill(box_id)
            return
        OPERATIONS[operation][0](self.daemon.client, box_id)
        self.follow(box_id, OPERATIONS[operation][1](self.lives[box_id])[-1:])

    @rule(place=PLACES, cut=CUTS)
    def ask_and_die(self, place: int, cut: tuple[str, str]) -> None:
        """A request in the midst of which the daemon dies, where it gets that far."""
        box_id, (operation, point) = self.pick(place), cut
        before = self.lives[box_id]
        self.daemon.set_failpoints(f"{point}=kill")
        answered = self.attempt(operation, box_id)
        self.restart()
        after = OPERATIONS[operation][1](before)
        self.follow(box_id, after[-1:] if answered else (before, *after))

    @rule(operations=st.lists(AT_ONCE, min_size=MAX_BOXES, max_size=MAX_BOXES), delay=st.sampled_from([None, 0, 1, 5]))
    def ask_at_once(self, operations: list[str], delay: int | None) -> None:
        """A request to each box at the same time; with a delay (10 ms), the daemon is killed meanwhile."""
        chosen = dict(zip(self.lives, operations, strict=False)) or {self.pick(0): operations[0]}
        answers: dict[str, bool] = {}
        threads = [
            threading.Thread(
                target=lambda box_id=box_id, name=name: answers.update({box_id: self.attempt(name, box_id)})
            )
            for box_id, name in chosen.items()
        ]
        for thread in threads:
            thread.start()
        if delay is not None:
            threads[0].join(delay / 100)
            self.daemon.kill9()
        for thread in threads:
            thread.join(60)
        if delay is not None:
            self.daemon.start()
        for box_id, name in chosen.items():
            before = self.lives[box_id]
            after = OPERATIONS[name][1](before)
            self.follow(box_id, after[-1:] if answers[box_id] else (before, *after))

    @rule(place=PLACES, code=CODES, down=st.booleans())
    def end(self, place: int, code: int, down: bool) -> None:
        """A box ends by itself."""
        box_id = self.pick(place, runs)
        self.let_end(box_id, code, down)
        self.ended(box_id, "stopped", "exited", code)

    @rule(place=PLACES, down=st.booleans(), seen=st.booleans(), operation=st.sampled_from(["stop", "stop", "remove"]))
    def end_and_ask(self, place: int, down: bool, seen: bool, operation: str) -> None:
        """A user's word meets the end, or the policy's timer, or the run after it: it is the last word."""
        box_id = self.pick(place, would_run_again, Policy("always"))
        life, told = self.lives[box_id], self.told[box_id, "restarting"]
        self.let_end(box_id, 3, down)
        if seen:
            self.hear(lambda: self.told[box_id, "restarting"] > told, f"the policy acts on the end of box {box_id}")
        OPERATIONS[operation][0](self.daemon.client, box_id)
        end = replace(life, status="stopped", cause="exited", code=3)
        stopped = life.stopped()  # the run after it; or this one, which then had a code of its own
        self.follow(box_id, (GONE,) if operation == "remove" else (end, stopped, replace(stopped, code=3)))

    @rule(place=PLACES, point=st.sampled_from(RESTART_POINTS))
    def end_and_die(self, place: int, point: str) -> None:
        """The daemon dies in the midst of what the policy does about an end."""
        box_id = self.pick(place, would_run_again, Policy("always"))
        self.daemon.set_failpoints(f"{point}=kill")
        self.let_end(box_id, 3, down=False)
        self.daemon.wait_killed()
        self.daemon.start()
        self.ended(box_id, "stopped", "exited", 3)

    @rule(place=PLACES, down=st.booleans(), number=st.sampled_from([signal.SIGKILL, signal.SIGSEGV]))
    def kill_workload(self, place: int, down: bool, number: int) -> None:
        box_id = self.pick(place, runs)
        workload = workload_of(self.pids[box_id])
        self.while_down(down, lambda: signal_pid(workload, number), self.pids[box_id])
        self.ended(box_id, "failed", "crashed", 128 + number)

    @rule(place=PLACES, down=st.booleans())
    def kill_shim(self, place: int, down: bool) -> None:
        """Seen by the daemon it is a crash; unseen, nobody knows what it was, and that is what is said."""
        box_id = self.pick(place, runs)
        pid = self.pids[box_id]
        self.while_down(down, lambda: kill_pid(pid), pid)
        self.ended(box_id, *(("stopped", "lost") if down else ("failed", "shim_killed")))

    @rule()
    def kill_daemon(self) -> None:
        self.restart()


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
