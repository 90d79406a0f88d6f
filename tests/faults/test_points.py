"""Every point of every operation; see sweep.py. Run by `make faults`."""

from __future__ import annotations

import pytest

from tests.faults.conftest import LINES
from tests.faults.operations import OPERATIONS
from tests.faults.sweep import Sweep
from tests.faults.tracing import has_strace


@pytest.mark.timeout(3600)
def test_no_promise_is_broken_at_any_point_of_any_operation(pytestconfig: pytest.Config) -> None:
    assert has_strace(), "strace is needed, and that it may attach to processes of this user"
    lines = Sweep(OPERATIONS).run()
    pytestconfig.stash[LINES] += lines
    violations = [violation for line in lines for violation in line.violations]
    assert violations == []
    assert sum(line.points for line in lines) > 500
