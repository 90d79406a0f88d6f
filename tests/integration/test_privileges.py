"""The daemon with more and with less: as root, with the unit's capabilities alone, and as a user without a single one.

A box's whole life must be the same under each; what a daemon may do is asked of the kernel, not of how it was started.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.daemon_harness import Daemon, kill_pid
from tests.integration.ordinary import ORDINARY, SELF, daemon_of

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n"
UNIT = Path(__file__).parents[2] / "systemd/boxlited.service"
UNITS_OWN, NONE = "the unit's capabilities", "no capability"
USERS = (SELF, UNITS_OWN, ORDINARY, NONE)


def of_the_unit() -> list[str]:
    found = re.search(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    return [name.lower() for name in found[1].split()]


@contextmanager
def daemon_with(privileges: str) -> Iterator[Daemon]:
    """Not started yet. Skips where it cannot have just these."""
    if privileges == UNITS_OWN and os.geteuid() != 0:
        pytest.skip("only root has capabilities to keep")
    user = ORDINARY if privileges in (ORDINARY, NONE) else SELF
    with daemon_of(user, CONFIG) as daemon:
        if privileges == UNITS_OWN:
            kept = ",".join(["-all", *(f"+{name.removeprefix('cap_')}" for name in of_the_unit())])
            daemon.prefix = ["setpriv", f"--bounding-set={kept}", "--"]
        elif privileges == NONE:  # as boxlited-unprivileged.conf has it
            at = daemon.prefix.index("--")
            daemon.prefix[at:at] = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        yield daemon


@pytest.fixture(scope="module", params=USERS)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with daemon_with(request.param) as one:
        one.privileges = request.param  # type: ignore[attr-defined]
        yield one.start()


def status_of(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1], 16)


def test_the_daemon_has_what_it_was_given_and_no_more(daemon: Daemon) -> None:
    assert daemon.process is not None
    privileges = daemon.privileges  # type: ignore[attr-defined]
    held, bound = (status_of(daemon.process.pid, name) for name in ("CapEff", "CapBnd"))
    if privileges == UNITS_OWN:
        numbers = subprocess.run(["setpriv", "--list-caps"], capture_output=True, text=True, check=True).stdout.split()
        named = sum(1 << numbers.index(name.removeprefix("cap_")) for name in of_the_unit())
        assert held == bound == named & status_of(os.getpid(), "CapBnd")
        assert bound != status_of(os.getpid(), "CapBnd")
    elif privileges == NONE:
        assert (held, bound, status_of(daemon.process.pid, "NoNewPrivs")) == (0, 0, 1)
    elif privileges == ORDINARY:
        assert held == 0


@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_a_box_lives_its_whole_life(daemon: Daemon, engine: str) -> None:
    box = daemon.run(engine=engine)
    assert daemon.client.run_command(box["box_id"], ["/bin/echo", "hello"]).stdout == b"hello\n"
    daemon.restart_after_kill()
    assert daemon.get(box["box_id"])["pid"] == box["pid"]
    stopped = daemon.client.stop(box["box_id"], 5)
    assert (stopped["stop_cause"], stopped["exit_code"]) == ("user", 128 + signal.SIGTERM)
    again = daemon.client.start(box["box_id"])
    kill_pid(again["pid"])
    assert daemon.wait_status(box["box_id"], "failed")["stop_cause"] == "shim_killed"
    daemon.check_oracle({box["box_id"]: "failed"})
    daemon.client.remove(box["box_id"])
    daemon.check_oracle({})


def test_a_box_of_another_user_with_a_capability_where_the_daemon_is_root(daemon: Daemon) -> None:
    if daemon.privileges not in (SELF, UNITS_OWN) or os.geteuid() != 0:  # type: ignore[attr-defined]
        pytest.skip("an ordinary user's boxes have no other user")
    spec = {"user": "1234:1234", "advanced": {"capabilities": {"add": ["NET_RAW"]}}}
    box = daemon.run(**spec)
    said = daemon.client.run_command(box["box_id"], ["/bin/sh", "-c", "id -u; grep CapEff /proc/self/status"]).stdout
    assert said.split()[0] == b"1234"
    daemon.client.remove(box["box_id"], force=True)
