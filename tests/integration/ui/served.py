"""A daemon whose page is served on a port of loopback, and what its boxes run."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.integration.daemon_harness import Daemon
from tests.integration.ui.browser import CHROMIUM, DRIVER, MISSING

TOKEN = "0123456789abcdef0123"
# Echoes a line whenever it gets SIGUSR1, and never ends by itself.
TALKER = ["sh", "-c", "trap 'echo told' USR1; echo up; while :; do sleep 0.02; done"]
needs_browser = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)


class Served(Daemon):
    """A daemon that also listens on a port of loopback, the same one after a restart."""

    def __init__(self) -> None:
        super().__init__()
        token_file = self.root / "token"
        token_file.write_text(TOKEN)
        token_file.chmod(0o600)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.arguments = ["--listen", self.address, "--token-file", str(token_file)]

    @property
    def url(self) -> str:
        return f"http://{self.address}/ui"

    def tell(self, name: str) -> None:
        self.client.kill(name, signal.SIGUSR1)
