"""The daemon as an ordinary user, where the tests are run by root: what holds must not hold by privilege alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import pytest

from tests.integration.daemon_harness import Daemon

T = TypeVar("T")
SELF, ORDINARY = USERS = ("self", "ordinary user")
STRANGER = 61234  # a user that nothing else here runs as
READABLE = (  # a Python below /root is shown to everybody, in a mount namespace of its own
    'if [ -n "$1" ]; then mkdir -p "$2" && mount --bind "$1" "$2" && mount -t tmpfs -o mode=755 tmpfs /root &&'
    ' mkdir -p "$1" && mount --bind "$2" "$1" && umount "$2" || exit 1; fi; shift 2; exec "$@"'
)


def all_or(few: Iterable[T], every: Iterable[T]) -> list[T]:
    """Few are for the suite that runs with each change; `make faults` tries every one (BOXLITED_EVERY_CASE)."""
    return list(every if os.environ.get("BOXLITED_EVERY_CASE") else few)


@contextmanager
def daemon_of(user: str, config: str | None = None) -> Iterator[Daemon]:
    """A daemon that is not started yet. Skips where it cannot be that user's."""
    if user == ORDINARY and (os.geteuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("only root can be another user; who runs the tests is an ordinary one already")
    with Daemon(config) as daemon:
        if user == ORDINARY:
            _as_stranger(daemon)
        yield daemon


@contextmanager
def daemons_of_users(config: str) -> Iterator[Callable[[str], Daemon]]:
    """Gives the daemon of a user, which is started when it is first asked for."""
    started: dict[str, Daemon] = {}

    def of(user: str) -> Daemon:
        if user not in started:
            started[user] = stack.enter_context(daemon_of(user, config)).start()
        return started[user]

    with ExitStack() as stack:
        yield of


def _as_stranger(daemon: Daemon) -> None:
    """Skips where that user cannot read the program."""
    hidden = sys.base_prefix if sys.base_prefix.startswith("/root/") else ""
    daemon.prefix = ["unshare", "--mount", "sh", "-c", READABLE, "sh", hidden, str(daemon.root / "python")]
    daemon.prefix += ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "--"]
    daemon.prefix += ["env", f"HOME={daemon.root}"]
    works = subprocess.run(
        [*daemon.prefix, sys.executable, "-c", "import boxlited.daemon"], cwd="/", capture_output=True, check=False
    )
    if works.returncode != 0:
        pytest.skip(f"an ordinary user cannot read this Python or this checkout: {works.stderr[-300:]!r}")
    os.chown(daemon.root, STRANGER, STRANGER)
