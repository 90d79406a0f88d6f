"""What the home needs now and then: unknown directories, old quarantine, old events, `etc`.

Runs inside the reconcile loop. Failures are logged and tried again; no box is changed here.
"""

from __future__ import annotations

import structlog

from boxlited.config import Config
from boxlited.errors import BoxlitedError
from boxlited.model import BoxID
from boxlited.supervisor import hostetc
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.orphans import Orphans
from boxlited.supervisor.worker import in_worker

log = structlog.get_logger()


class Housekeeper:
    def __init__(
        self, config: Config, home: HomeLayout, ledger: Ledger, orphans: Orphans, directories: Directories
    ) -> None:
        self._config = config
        self._home = home
        self._ledger = ledger
        self._orphans = orphans
        self._directories = directories

    async def tidy(self) -> list[BoxID]:
        """One round; returns the boxes that got a row from their directory and need settling."""
        gained: list[BoxID] = []
        try:
            gained = await self._orphans.scan(database_lost=False)
            await in_worker(self._directories.delete_removed)
            await self._orphans.purge(self._config.quarantine.grace_seconds)
            await self._ledger.store.prune_events(self._config.events.keep)
            await in_worker(hostetc.sync, self._home.etc_dir)
        except (BoxlitedError, OSError) as error:
            log.error("housekeeping failed, it is tried again", error=str(error))
        return gained
