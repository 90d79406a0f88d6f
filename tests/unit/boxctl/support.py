"""What tests of boxctl share: in this process, and as a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.fake_daemon import FakeDaemon

WEB, DB = "webaaaaaaaaaaaaa", "dbbbbbbbbbbbbbbb"


class Result(NamedTuple):
    code: int
    out: str
    err: str


def found_by_boxctl(serving: Callable[[Path], AbstractContextManager[FakeDaemon]]) -> Any:
    """The fixture `fake`: a daemon, served so, that the environment leads to and nothing else does."""

    @pytest.fixture
    def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
        monkeypatch.setenv("BOXLITED_SOCKET", str(tmp_path / "d.sock"))
        monkeypatch.delenv("BOXLITED_URL", raising=False)
        monkeypatch.delenv("COLUMNS", raising=False)
        with serving(tmp_path / "d.sock") as daemon:
            yield daemon

    return fake
