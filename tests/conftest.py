"""For every test: signals as a terminal would have them, whoever started the run."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A run in the background of a shell ignores SIGINT, and what it starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
