"""A directory for a target's files, away with the process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def scratch() -> Path:
    path = Path(tempfile.mkdtemp(prefix="bxf"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
