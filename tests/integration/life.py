"""A box's life: the model that the real daemon is held against, and what may befall a box.

Data and pure functions; knows nothing of a daemon but its client's methods. `code` None: there is none, or it is
that of the signal that brought the end about. A restart policy's next run comes soon (0.2 s), or it is an hour away and
is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from boxlited.client import Client

BY_A_SIGNAL = {"user": frozenset({143, 137}), "shim_killed": frozenset({137})}  # by what is not the workload's own end
HEALTHY_SECONDS = 10.0  # a run of this length makes a clean slate
AN_HOUR = 3600.0


@dataclass(frozen=True)
class Policy:
    name: str = "no"
    max_retries: int | None = None
    delay_seconds: float = 0.2  # long enough for a user to come first

    def spec(self) -> dict[str, Any]:
        backoff = {"initial_seconds": self.delay_seconds, "max_seconds": self.delay_seconds}
        return {"policy": self.name, "max_retries": self.max_retries, "backoff": backoff}

    def wants(self, status: str, code: int | None, cause: str | None = None) -> bool:
        return self.name == "always" or (
            self.name == "on-failure" and (status == "failed" or bool(code) or cause == "lost")
        )


POLICIES = (Policy(), Policy("always"), Policy("on-failure", max_retries=1), Policy("always", delay_seconds=AN_HOUR))


@dataclass(frozen=True)
class Life:
    """The model."""

    policy: Policy = Policy()
    status: str = "configured"
    cause: str | None = None
    code: int | None = None
    runs: int = 0
    restarts: int = 0  # by the policy, one after the other
    waits: bool = False  # for the policy's next run
    gave_up: bool = False
    since: float = field(default=0.0, compare=False)  # the run did not begin before
    not_before: float = field(default=0.0, compare=False)  # cannot have come about before

    @property
    def codes(self) -> frozenset[int | None]:
        """What it may be told to have ended with."""
        return frozenset({self.code}) if self.code is not None else BY_A_SIGNAL.get(self.cause or "", frozenset({None}))

    def started(self) -> Life:
        return self if self.status == "running" else Life(self.policy, "running", runs=self.runs + 1)

    def stopped(self) -> Life:
        """By a user: no policy acts against it."""
        if self.status == "running":
            return Life(self.policy, "stopped", "user", runs=self.runs)
        return replace(self, waits=False)

    def ended(self, status: str, cause: str, code: int | None = None) -> tuple[Life, ...]:
        """A run, by itself. Two lives where it may have been long enough to make a clean slate."""
        end = replace(self, status=status, cause=cause, code=code)
        if not self.policy.wants(status, code, cause):
            return (end,)
        return end.followed(), replace(replace(end, restarts=0).followed(), not_before=self.since + HEALTHY_SECONDS)

    def followed(self) -> Life:
        """By what the policy does about an end that it wants another run after."""
        if self.policy.max_retries is not None and self.restarts >= self.policy.max_retries:
            return replace(self, gave_up=True)
        if self.policy.delay_seconds == AN_HOUR:
            return replace(self, waits=True)
        return Life(self.policy, "running", runs=self.runs + 1, restarts=self.restarts + 1)

    def resumed(self) -> tuple[Life, ...]:
        """A user's start was written and nothing was forked: the policy acts as after the end before it."""
        maybe = 1 if self.code is None else self.code
        wanted = self.status != "running" and self.policy.wants(self.status, maybe)
        return (replace(self, restarts=0).followed(),) if wanted else ()


GONE = Life(status="gone")
OPERATIONS: dict[str, tuple[Callable[[Client, str], Any], Callable[[Life], tuple[Life, ...]]]] = {
    # name: the request, and the lives that it leads through: the last when it is answered, any when it is cut
    "start": (lambda client, ref: client.start(ref), lambda life: (*life.resumed(), life.started())),
    "stop": (lambda client, ref: client.stop(ref, 5), lambda life: (life.stopped(),)),
    "kill": (lambda client, ref: client.kill(ref), lambda life: (life.stopped(),)),
    "restart": (
        lambda client, ref: client.restart(ref, 5),
        lambda life: (life.stopped(), *life.stopped().resumed(), life.stopped().started()),
    ),
    "remove": (lambda client, ref: client.remove(ref, force=True), lambda life: (life.stopped(), GONE)),
    "exec": (lambda client, ref: client.exec(ref, "/bin/true"), lambda life: (*life.resumed(), life.started())),
}
START_POINTS = ("start.after_intent", "start.after_spawn", "start.after_ready")
POINTS = {
    "start": START_POINTS,
    "exec": START_POINTS,
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
RESTART_POINTS = ("apply.before_write", "apply.after_write", *START_POINTS)  # of the policy's
ENDED = {"starting", "removed", "reset"}
MAY_FOLLOW = {  # what may come after what, of one box; a warning may come at any time
    None: {"created", "quarantined"},  # the latter was never told of
    "created": {"starting", "removed"},
    "starting": {"started", "adopted", "failed", "starting", "stopping", "stopped", "removed", "restarting"},
    "started": {"stopping", "stopped", "failed", "adopted", "signalled"},
    "adopted": {"stopping", "stopped", "failed", "adopted", "signalled"},
    "signalled": {"stopping", "stopped", "failed", "signalled"},
    "stopping": {"stopped", "failed", "removed"},
    "stopped": ENDED | {"restarting", "gave_up"},
    "failed": ENDED | {"restarting", "gave_up"},
    "restarting": ENDED | {"restarting"},
    "gave_up": ENDED,
    "removed": set(),
    "quarantined": set(),
}
