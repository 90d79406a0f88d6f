"""trio-asyncio, importable on every Python that we support.

trio-asyncio 0.16 needs two names of asyncio that Python 3.14 removed or renamed, and uses
neither of them here: no child process is started through it (its issues 152 and 160).
"""

import asyncio
from typing import Any

_events: Any = asyncio.events
_asyncio: Any = asyncio

if not hasattr(_asyncio, "AbstractChildWatcher"):
    _asyncio.AbstractChildWatcher = object
if not hasattr(_events, "BaseDefaultEventLoopPolicy"):
    _events.BaseDefaultEventLoopPolicy = _events._BaseDefaultEventLoopPolicy

from trio_asyncio import aio_as_trio, current_loop, open_loop  # noqa: E402

__all__ = ["aio_as_trio", "current_loop", "open_loop"]
