"""Row 28 of the fault list by a box that tries: its pid file names somebody else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product

import pytest

from boxlited.errors import BoxlitedError
from tests.integration import leftovers
from tests.integration.daemon_harness import Daemon, is_alive
from tests.integration.ordinary import ORDINARY, SELF, all_or, daemons_of_users
from tests.integration.processes import start_time
from tests.integration.puppet import CONFIG, ENGINES, do, puppet


@pytest.fixture(scope="module")
def daemons() -> Iterator[Callable[[str], Daemon]]:
    with daemons_of_users(CONFIG) as of:
        yield of


WHO = ["0", "1", "-1", "daemon", "another box's shim", "a process of root"]


@pytest.mark.parametrize(
    ("user", "engine", "who", "restarted"),
    [
        *all_or(
            [
                *((SELF, *what, number % 2 == 0) for number, what in enumerate(product(ENGINES, WHO))),
                (SELF, "process", "daemon", True),
                (SELF, "process", "another box's shim", False),
                (SELF, "process", "a process of root", True),
                *product([ORDINARY], ["process"], ["a process of root"], [False, True]),
                (ORDINARY, "sandbox", "another box's shim", True),
            ],
            product([SELF, ORDINARY], ENGINES, WHO, [False, True]),
        ),
    ],
)
def test_row_28_a_box_that_names_another_in_its_pid_file(
    daemons: Callable[[str], Daemon], user: str, engine: str, who: str, restarted: bool
) -> None:
    """While it lives, with the right start time, before and after a restart: nobody else is signalled.

    The same is expected of a daemon of an ordinary user, but for one thing. It has no control group that tells whose
    processes are whose: where a box of engine `process` denies its shim before a restart, its own processes outlive it.
    """
    daemon, is_ordinary = daemons(user), user == ORDINARY or os.geteuid() != 0
    liar, other = puppet(daemon, engine), daemon.run()
    assert daemon.process is not None
    victims = {"daemon": daemon.process.pid, "another box's shim": other["pid"]}
    pid = int(who) if who.lstrip("-").isdigit() else victims.get(who, daemon.sentinels[0].pid)
    stamp = start_time(pid) if pid > 0 else 1
    before = (daemon.box_dir(liar["box_id"]) / "shim.pid").read_bytes()
    do(daemon, liar, f"printf '%s\\n%s\\n' {pid} {stamp} >$1/shim.pid")
    if engine == "sandbox":
        assert (daemon.box_dir(liar["box_id"]) / "shim.pid").read_bytes() == before
    own = [os.pidfd_open(pid) for pid in (liar["pid"], *leftovers.descendants(liar["pid"]))]
    if restarted:
        daemon.restart_after_kill()
    daemon.client.reconcile()
    with suppress(BoxlitedError):
        daemon.client.kill(liar["box_id"], signal.SIGUSR1)
    with suppress(BoxlitedError):
        daemon.client.stop(liar["box_id"], 1)
    daemon.client.remove(liar["box_id"], force=True)
    assert is_alive(other["pid"])
    assert daemon.process.poll() is None
    assert not [pid for owner, pid in daemon.shims() if owner == liar["box_id"]]
    for pidfd in own:
        with suppress(ProcessLookupError):
            if is_ordinary and (engine, restarted) == ("process", True):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    daemon.check_oracle({other["box_id"]: "running"})
    daemon.client.remove(other["box_id"], force=True)
