"""boxctl against a small daemon whose commands are real processes of this host."""

from __future__ import annotations

from tests.integration import fake_exec
from tests.unit.boxctl.support import found_by_boxctl

fake = found_by_boxctl(fake_exec.serving)
