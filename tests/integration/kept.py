"""A daemon that is lent to one test after another: each finds it without boxes, and as good as new.

To start a daemon costs most of what a test costs. One that a test failed with, or left with something that
cannot be cleared away, is closed, and the next test gets a new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boxlited.errors import BoxlitedError
from tests.integration.daemon_harness import Daemon, until


class Keeper:
    def __init__(self, config: str | None) -> None:
        self._config = config
        self._daemon: Daemon | None = None
        self._own: set[str] = set()

    @contextmanager
    def lend(self) -> Iterator[Daemon]:
        daemon = self._daemon or self._made()
        os.truncate(daemon.log, 0)
        daemon.set_failpoints("")
        try:
            yield daemon
        except BaseException:
            self.close()
            raise
        if not self._is_as_new(daemon):
            self.close()

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None

    def _made(self) -> Daemon:
        self._daemon = daemon = Daemon(self._config)
        daemon.start()
        self._own = set(os.listdir(daemon.root))
        return daemon

    def _is_as_new(self, daemon: Daemon) -> bool:
        assert daemon.process is not None
        if daemon.process.poll() is not None or daemon.env or any(one.poll() is not None for one in daemon.sentinels):
            return False
        try:
            for box in daemon.client.list():
                daemon.client.remove(box["box_id"], force=True)
            until(lambda: not daemon.shims(), "the boxes end", 10)
        except (BoxlitedError, AssertionError):
            return False
        for name in set(os.listdir(daemon.root)) - self._own:
            _remove(daemon.root / name)
        for entry in (daemon.home / "quarantine").glob("*"):
            _remove(entry)
        return not any((daemon.home / "boxes").iterdir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
