"""One daemon for the tests of a file; a test that fails shows what it had logged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.listening import Listening, listening
from tests.integration.conftest import _forget_logs, pytest_runtest_makereport

__all__ = ["_forget_logs", "pytest_runtest_makereport"]


@pytest.fixture(scope="module")
def served() -> Iterator[Listening]:
    with listening() as found:
        yield found
