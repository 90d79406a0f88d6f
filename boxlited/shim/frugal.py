"""Reading, writing and parsing that dirties few pages: each page a shim writes to is its own, times every box.

`open` brings buffers of 8 KiB, `json.loads` and `fstat` touch far more of the interpreter than
they need. Standard library only.
"""

import json
import os

_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_READ = os.O_RDONLY | os.O_CLOEXEC


def read_small(path: str, limit: int = 4096) -> bytes:
    """The beginning of a file of /proc or the like. Raises OSError."""
    fd = os.open(path, _READ)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def parse_json(text: str) -> object:
    """One JSON value at the very beginning of the text. Raises ValueError."""
    try:
        return _scan(text, 0)[0]
    except StopIteration:
        raise ValueError("not JSON") from None


def forgo_protection() -> None:
    """Call in a forked child: what keeps daemon and shim from the out-of-memory killer is not for a box."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # not ours to write: an ordinary user's, who cannot have lowered it either
    try:
        if os.read(fd, 16).startswith(b"-"):
            os.pwrite(fd, b"0", 0)
    finally:
        os.close(fd)
