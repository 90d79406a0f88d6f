"""A test that fails shows what the daemons had logged."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.integration.daemon_harness import CLOSED_LOGS, OPEN


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
