"""Whether the daemon moves files into boxes: tests that need it say so when it does not."""

from __future__ import annotations

import pytest

from boxlited.errors import Unsupported
from tests.integration.daemon_harness import Daemon


def require_files(daemon: Daemon) -> None:
    box = daemon.run()
    try:
        daemon.client.get_files(box["box_id"], "/etc/hostname").close()
    except Unsupported as error:
        pytest.skip(f"this daemon moves no files: {error}")
    finally:
        daemon.client.remove(box["box_id"], force=True)
