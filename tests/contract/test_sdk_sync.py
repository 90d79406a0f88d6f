"""The SDK's synchronous face, in a process of its own: it wants asyncio as it is, and trio-asyncio, which the store's
tests import, puts its own loop in the place of every new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("sdk_sync_cases.py")
SECONDS = 170.0


def test_the_synchronous_sdk_drives_the_daemon() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        cwd=CASES.parents[2], capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout, "every case was run"
