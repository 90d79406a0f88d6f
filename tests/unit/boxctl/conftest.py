"""boxctl in this process, against a small real daemon on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from boxlited.cli import boxctl
from tests.unit import fake_daemon
from tests.unit.boxctl.support import Result
from tests.unit.fake_daemon import FakeDaemon


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("BOXLITED_SOCKET", str(tmp_path / "d.sock"))
    monkeypatch.delenv("BOXLITED_URL", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    with fake_daemon.serving(tmp_path / "d.sock") as daemon:
        yield daemon


@pytest.fixture
def run(fake: FakeDaemon, capfd: pytest.CaptureFixture[str]):
    """boxctl in this process."""

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            boxctl.main(list(arguments))
        captured = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return call
