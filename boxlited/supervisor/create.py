"""Create: an id, a durable directory, a durable row, in that order. Never starts anything.

Concurrent creates share one worker thread's turn and one sync of boxes/; the same
idempotency key gives the same box, also when the first caller has gone away.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import trio

from boxlited.config import Config
from boxlited.errors import AlreadyExists, BoxlitedError, Internal, ResourceExhausted
from boxlited.failpoints import hit
from boxlited.model import Box, BoxID, BoxSpec, EventDraft, EventKind, check_name
from boxlited.supervisor.directories import BoxFile, Directories
from boxlited.supervisor.engines import Engines
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.worker import in_worker

MAX_TOGETHER = 64  # directories that are made in one turn; each holds a descriptor open meanwhile


class Creator:
    """`creating` names the directories that have no row yet: the scan for orphans leaves them alone."""

    def __init__(
        self, config: Config, ledger: Ledger, engines: Engines, directories: Directories, creating: set[BoxID]
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._store = ledger.store
        self._engines = engines
        self._directories = directories
        self._maker = DirectoryMaker(directories)
        self._creating = creating
        self._keys: dict[str, trio.Lock] = {}

    async def create(self, spec: BoxSpec, key: str | None) -> Box:
        """Durable before it returns. Raises AlreadyExists, ResourceExhausted, InvalidArgument, StorageError."""
        if key is None:
            return await self._create(spec, None)
        lock = self._keys.setdefault(key, trio.Lock())
        try:
            async with lock:
                return self._by_key(key, spec) or await self._create(spec, key)
        finally:
            if not lock.locked():
                self._keys.pop(key, None)

    def _by_key(self, key: str, spec: BoxSpec) -> Box | None:
        known = self._store.idempotent(key)
        if known is None:
            return None
        box_id, fingerprint = known
        if fingerprint != _fingerprint(spec):
            raise AlreadyExists("this Idempotency-Key was used for another request: use a new key")
        return self._ledger.row(BoxID(box_id))

    async def _create(self, spec: BoxSpec, key: str | None) -> Box:
        limit = self._config.limits.max_boxes
        if limit is not None and len(self._store.boxes) + len(self._creating) >= limit:
            raise ResourceExhausted(f"{limit} boxes exist and limits.max_boxes is {limit}: remove some first")
        self._engines.check(spec)
        box_id = BoxID.mint()
        name = check_name(spec.name) if spec.name is not None else f"box-{box_id[:8]}"
        if self._store.by_name(name) is not None:
            raise AlreadyExists(f"a box named {name!r} exists already: choose another name or remove it")
        now = time.time()
        box = Box(box_id=box_id, name=name, spec=spec, created_at=now, updated_at=now)
        self._creating.add(box_id)
        try:
            return await self._create_durably(box, key)
        finally:
            self._creating.discard(box_id)

    async def _create_durably(self, box: Box, key: str | None) -> Box:
        """Directory and config first, then the row: a kill in between leaves nothing acknowledged."""
        await self._maker.make(BoxFile(box_id=str(box.box_id), name=box.name, created_at=box.created_at, spec=box.spec))
        hit("create.after_directory")
        event = EventDraft(kind=EventKind.CREATED, box_id=box.box_id, name=box.name)
        idempotency = None if key is None else (key, _fingerprint(box.spec))
        try:
            row = await self._store.insert(box, event, idempotency=idempotency)
        except BoxlitedError:  # not when cancelled: the row is written all the same
            self._directories.remove(box.box_id, f"{time.time_ns():x}")
            with suppress(ResourceExhausted):
                await in_worker(self._directories.delete_removed)  # the disk may be full of such
            raise
        hit("create.after_row")
        self._ledger.counters["created"] += 1
        return row


@dataclass(slots=True, eq=False)
class _Order:
    config: BoxFile
    done: bool = False
    error: BoxlitedError | None = None


class DirectoryMaker:
    """Whoever gets the turn makes the directories of all who wait."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._turn = trio.Lock()
        self._orders: list[_Order] = []

    async def make(self, config: BoxFile) -> None:
        """Returns when the directory is durable. Raises StorageError or ResourceExhausted."""
        order = _Order(config)
        self._orders.append(order)
        try:
            while not order.done:
                async with self._turn:
                    if not order.done:
                        await self._take_turn()
        finally:
            if not order.done and order in self._orders:  # cancelled while it waited
                self._orders.remove(order)
        if order.error is not None:
            raise order.error

    async def _take_turn(self) -> None:
        batch, self._orders = self._orders[:MAX_TOGETHER], self._orders[MAX_TOGETHER:]
        errors: list[BoxlitedError | None] = [Internal("the directory was not made: see the daemon's log")] * len(batch)
        try:
            errors = await in_worker(self._directories.create_all, [order.config for order in batch])
        except ResourceExhausted as exhausted:
            errors = [exhausted] * len(batch)
        finally:  # a bug that one meets must not leave the others waiting
            for order, error in zip(batch, errors, strict=True):
                order.done = True
                order.error = error


def _fingerprint(spec: BoxSpec) -> str:
    return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
