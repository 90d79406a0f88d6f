"""boxctl in this process, against a small real daemon on a real socket."""

from __future__ import annotations

import pytest

from boxlited.cli import boxctl
from tests.unit import fake_daemon
from tests.unit.boxctl.support import Result, found_by_boxctl
from tests.unit.fake_daemon import FakeDaemon

fake = found_by_boxctl(fake_daemon.serving)


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
