"""Rows and observations for the tests of decisions: single ones, and all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from boxlited.model import Box, BoxID, BoxSpec, BoxStatus, Desired, IdentityKind, Restart, RestartPolicyName, StopCause
from boxlited.supervisor.decide import LIVE_STATUS
from boxlited.supervisor.plans import ExitRun, ExitSeen, Observation

ABSENT = IdentityKind.ABSENT
BOX_ID = BoxID("a" * 16)


def box(
    status: BoxStatus = BoxStatus.RUNNING,
    desired: Desired = Desired.RUNNING,
    policy: RestartPolicyName = RestartPolicyName.NO,
    *,
    cause: StopCause | None = None,
    run_open: bool | None = None,
    pid: int | None = 100,
    **spec: object,
) -> Box:
    is_open = status in LIVE_STATUS if run_open is None else run_open
    spec = {"restart": Restart(policy=policy), **spec}
    return Box(
        box_id=BOX_ID,
        name="web",
        spec=BoxSpec(**spec),  # type: ignore[arg-type]
        status=status,
        desired=desired,
        stop_cause=cause,
        run_id="r" if is_open else None,
        pid=pid,
        identity=IdentityKind.VERIFIED,
    )


def rows() -> Iterator[Box]:
    policies = (RestartPolicyName.NO, RestartPolicyName.ALWAYS)
    causes = (None, StopCause.USER)
    for status, desired, policy, cause, run_open, auto_remove in itertools.product(
        BoxStatus, Desired, policies, causes, (True, False), (True, False)
    ):
        yield box(status, desired, policy, cause=cause, run_open=run_open, auto_remove=auto_remove)


def observations() -> Iterator[Observation]:
    """Every distinct one: what cannot be seen beside a live or unknown shim is left out there."""
    yield Observation(IdentityKind.UNKNOWN, errno=24, unknown_passes=2)
    yield Observation(IdentityKind.UNKNOWN, errno=24, unknown_passes=3)
    for exit_seen, exit_run in itertools.product(ExitSeen, ExitRun):
        signal = "SIGABRT" if exit_seen is ExitSeen.CRASH else None
        for kind in (IdentityKind.VERIFIED, IdentityKind.LEGACY):
            yield Observation(kind, pid=100, pid_file=True, exit=exit_seen, exit_run=exit_run, exit_signal=signal)
        yield Observation(IdentityKind.VERIFIED, pid=100, pid_file_wrong=True, exit=exit_seen, exit_run=exit_run)
        for violence in ((None, False), ("SIGKILL", False), ("SIGKILL", True)):
            for boot, directory, pid_file, pending, leftovers in itertools.product((False, True), repeat=5):
                yield Observation(
                    IdentityKind.ABSENT,
                    boot_changed=boot,
                    directory=directory,
                    pid_file=pid_file,
                    exit=exit_seen,
                    exit_run=exit_run,
                    exit_signal=signal,
                    shim_signal=violence[0],
                    oom=violence[1],
                    leftovers=leftovers,
                    evidence_pending=pending,
                )
