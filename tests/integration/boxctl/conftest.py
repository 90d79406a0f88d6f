"""boxctl against a small daemon whose commands are real processes of this host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import fake_exec
from tests.unit.fake_daemon import FakeDaemon


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("BOXLITED_SOCKET", str(tmp_path / "d.sock"))
    monkeypatch.delenv("BOXLITED_URL", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    with fake_exec.serving(tmp_path / "d.sock") as daemon:
        yield daemon
