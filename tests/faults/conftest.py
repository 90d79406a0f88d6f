"""The options of `make faults`, and its table at the end."""

from __future__ import annotations

import pytest

from tests.faults.sweep import Line, table

LINES = pytest.StashKey[list[Line]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", default="1", help="of the soak: the same seed gives the same schedule of faults")
    parser.addoption("--minutes", default=1.0, type=float, help="how long the soak lasts")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash[LINES]
    if lines:
        terminalreporter.section("points that were cut")
        terminalreporter.write_line(table(lines))
        for line in lines:
            for violation in line.violations:
                terminalreporter.write_line(f"VIOLATION {violation}")
