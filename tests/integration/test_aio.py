"""The store's bridge to asyncio, on a Python that lacks what trio-asyncio looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AS_ON_3_14 = """
import asyncio, sys, tomli, warnings
warnings.simplefilter("ignore")
events = asyncio.events
if hasattr(events, "BaseDefaultEventLoopPolicy"):
    events._BaseDefaultEventLoopPolicy = events.BaseDefaultEventLoopPolicy
    del events.BaseDefaultEventLoopPolicy
if hasattr(asyncio, "AbstractChildWatcher"):
    del asyncio.AbstractChildWatcher
old = {name: getattr(asyncio, name) for name in ("DefaultEventLoopPolicy", "AbstractEventLoopPolicy")}
def deprecated(name):
    if name not in old:
        raise AttributeError(name)
    text = f"'asyncio.{name}' is deprecated and slated for removal in Python 3.16"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return old[name]
for name in old:
    vars(asyncio).pop(name, None)
asyncio.__getattr__ = deprecated
for filter in tomli.load(open(sys.argv[2], "rb"))["tool"]["pytest"]["ini_options"]["filterwarnings"]:
    action, _, rest = filter.partition(":")
    message, _, category = rest.partition(":")
    warnings.filterwarnings(action, message, getattr(__builtins__, category or "Warning"))
"""
USE = """
import sys, trio
from pathlib import Path
from boxlited.model import EventDraft, EventKind
from boxlited.store.store import Store
async def main():
    store = Store.at(Path(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.append_event(EventDraft(kind=EventKind.DAEMON_STARTED, data={}))
        print(store.last_event_seq)
        nursery.cancel_scope.cancel()
trio.run(main)
"""


PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_store_works_without_the_names_that_python_3_14_removed_and_with_those_it_warns_of(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", AS_ON_3_14 + USE, str(tmp_path / "boxlited.db"), str(PROJECT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr
