"""Unit tests start no process: not in a test, not in its fixtures, and not while their modules are imported."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.unit.no_processes import GUARD, words

GUARD.install()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    with GUARD.listening() as started:
        report = yield
    if started and report.passed:
        report.outcome, report.longrepr = "failed", words(started)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    with GUARD.on():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    with GUARD.on():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    with GUARD.on():
        return (yield)
