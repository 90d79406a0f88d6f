"""All faults at once for some minutes; see soak.py. Run by `make faults` and `make soak`."""

from __future__ import annotations

import pytest

from tests.faults import soak


@pytest.mark.timeout(0)
def test_no_invariant_is_broken_by_all_faults_at_once(pytestconfig: pytest.Config) -> None:
    assert soak.main(pytestconfig.getoption("--seed"), pytestconfig.getoption("--minutes")) == 0
