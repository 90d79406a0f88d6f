"""What a start of the daemon does not pay for: the collector's passes, and what it never shows.

Every restart of the daemon is a time without anybody who answers, and imports are most of it.
Standard library only; it is the first that `serve` imports.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import inside: no garbage is looked for, and structlog does not find rich (a quarter of all imports).

    structlog takes rich where it is, for coloured tracebacks; without it they are plain, in both log formats.
    """
    taken = "rich" in sys.modules
    if not taken:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to have an import fail
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # modules stay: the first pass must not walk through them all
        gc.enable()
        if not taken:
            del sys.modules["rich"]
