"""A daemon that soon gives up on a shim: one that is stopped proves nothing, however long it is waited for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.daemon_harness import Daemon

PROOF_SECONDS = 1.0
PROGRAM = f"""
import sys
from boxlited.cli.boxlited import main
from boxlited.supervisor import channel
channel.PROOF_SECONDS = {PROOF_SECONDS}
main(sys.argv[sys.argv.index("serve"):])
"""


@contextmanager
def impatient(daemon: Daemon) -> Iterator[None]:
    """Within the block it is; the daemon is killed and another one started, before and after."""
    daemon.prefix = [sys.executable, "-c", PROGRAM]
    daemon.restart_after_kill()
    try:
        yield
    finally:
        daemon.prefix = []
        daemon.restart_after_kill()
