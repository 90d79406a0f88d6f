"""Whether the daemon runs commands in boxes: tests that need it say so when it does not."""

from __future__ import annotations

import pytest

from boxlited.errors import InvalidArgument, NotFound, Unsupported
from tests.integration.daemon_harness import Daemon


def require_exec(daemon: Daemon) -> None:
    box = daemon.run()
    try:
        daemon.client.exec(box["box_id"], "true")
    except (InvalidArgument, NotFound, Unsupported) as error:
        pytest.skip(f"this daemon runs no commands in boxes: {error}")
    finally:
        daemon.client.remove(box["box_id"], force=True)
