"""Directories in boxes/ that no row knows: adopted, rebuilt, quarantined; never deleted in place.

Owns the scan of the file system against the table. A directory that is being created is
not an orphan: `creating` names those.
"""

from __future__ import annotations

import time

import structlog

from boxlited.errors import AlreadyExists, BoxlitedError, InvalidArgument
from boxlited.model import Box, BoxID, BoxSpec, EventDraft, EventKind, IdentityKind
from boxlited.supervisor.decide import OrphanPlan, decide_orphan
from boxlited.supervisor.directories import BoxFile, Directories
from boxlited.supervisor.identity import Evidence
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.observe import Observer
from boxlited.supervisor.worker import in_worker

log = structlog.get_logger()


class Orphans:
    def __init__(self, home: HomeLayout, ledger: Ledger, observer: Observer, directories: Directories) -> None:
        self._home = home
        self._ledger = ledger
        self._observer = observer
        self._directories = directories
        self.creating: set[BoxID] = set()
        self._still_lost: set[BoxID] = set()  # their rows are lost, and they could not be looked at yet

    async def scan(self, *, database_lost: bool) -> list[BoxID]:
        """Treat every unknown directory; returns the boxes that got a row and need settling."""
        rows = self._ledger.store.boxes
        gained = []
        for name in self._directories.names():
            if name in rows or name in self.creating:
                continue
            box_id = await self._treat(name, database_lost=database_lost)
            if box_id is not None:
                gained.append(box_id)
        return gained

    async def _treat(self, name: str, *, database_lost: bool) -> BoxID | None:
        try:
            box_id = BoxID.parse(name)
        except InvalidArgument:
            self._quarantine(name, None)
            return None
        try:
            config = self._directories.read_config(self._home.box(box_id))
        except BoxlitedError as error:  # not being able to look proves nothing
            log.error("directory without a row is left alone", box_id=box_id, error=error.message)
            self._leave(box_id, database_lost)
            return None
        lost = database_lost or box_id in self._still_lost
        plan = decide_orphan(self._identity(box_id), valid_id=True, valid_config=config is not None, database_lost=lost)
        log.warning("directory without a row", box_id=box_id, action=plan.value)
        match plan:
            case OrphanPlan.ADOPT | OrphanPlan.REBUILD:
                await self._insert(box_id, config, plan)
                return box_id
            case OrphanPlan.QUARANTINE:
                if self._quarantine(name, box_id):
                    await self._note(box_id, EventKind.QUARANTINED)
            case OrphanPlan.LEAVE:
                self._leave(box_id, database_lost)
        return None

    def _leave(self, box_id: BoxID, database_lost: bool) -> None:
        """For a later scan, which must know as much about its row as this one."""
        if database_lost:
            self._still_lost.add(box_id)

    def _identity(self, box_id: BoxID) -> IdentityKind:
        """No row tells of which boot the pid file is, and pid and start time may be another's in this one: what seems
        older must show by its sealed spec that it is this box's."""
        layout = self._home.box(box_id)
        identity, handle = self._observer.identify(layout, Evidence(None, None))
        if handle is None:
            return identity.kind
        try:
            is_doubtful = self._observer.seems_older_than_boot(layout.pid_file) and handle.run_of(box_id) is None
        finally:
            handle.close()
        return IdentityKind.UNKNOWN if is_doubtful else identity.kind

    async def _insert(self, box_id: BoxID, config: BoxFile | None, plan: OrphanPlan) -> None:
        name = config.name if config is not None else f"adopted-{box_id[:8]}"
        spec = config.spec if config is not None else BoxSpec(image="host")
        now = time.time()
        created = config.created_at if config is not None else now
        box = Box(box_id=box_id, name=name, spec=spec, created_at=created, updated_at=now)
        event = EventDraft(kind=EventKind.ADOPTED, box_id=box_id, name=name, data={"how": plan.value})
        try:
            await self._ledger.store.insert(box, event)
        except AlreadyExists:  # the name went to another box meanwhile
            renamed = Box(box_id=box_id, name=f"adopted-{box_id}", spec=spec, created_at=created, updated_at=now)
            await self._ledger.store.insert(renamed, event)

    def _quarantine(self, name: str, box_id: BoxID | None) -> bool:
        try:
            target = self._directories.quarantine(name)
        except OSError as error:
            log.error("cannot quarantine a directory", name=name, error=str(error))
            return False
        log.warning("moved to quarantine", name=name, box_id=box_id, target=str(target))
        return True

    async def _note(self, box_id: BoxID, kind: EventKind) -> None:
        await self._ledger.store.append_event(EventDraft(kind=kind, box_id=box_id))

    async def purge(self, grace_seconds: float) -> None:
        """Delete what stayed in quarantine past its grace period."""
        for name in await in_worker(self._directories.purge_quarantine, grace_seconds):
            log.info("quarantined directory deleted after its grace period", name=name)
