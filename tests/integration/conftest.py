"""A test that fails shows what the daemons had logged."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.integration.daemon_harness import CLOSED_LOGS, OPEN, Daemon
from tests.integration.kept import Keeper


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when == "call":
        logs = [daemon.log_text()[-8000:] for daemon in OPEN]
        for log in logs or CLOSED_LOGS:
            report.sections.append(("log of the daemon", log))
    return report


@pytest.fixture(autouse=True)
def _forget_logs() -> None:
    CLOSED_LOGS.clear()


@pytest.fixture(scope="module")
def _keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    keeper = Keeper(getattr(request.module, "CONFIG", None))
    yield keeper
    keeper.close()


@pytest.fixture
def kept_daemon(_keeper: Keeper, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon with the module's CONFIG and no box; the test before had the same one."""
    failed = request.session.testsfailed
    with _keeper.lend() as daemon:
        yield daemon
        if request.session.testsfailed > failed:
            _keeper.close()
