"""The boxes in memory. The daemon alone owns the database, so this is the database for reading.

Also knows what is on its way: ids and names that an insert reserved before its commit, and
boxes whose deletion is queued.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from boxlited.errors import AlreadyExists, NotFound
from boxlited.model import Box, BoxID


class Table:
    def __init__(self) -> None:
        self._boxes: dict[BoxID, Box] = {}
        self._names: dict[str, BoxID] = {}
        self._arriving: set[BoxID] = set()
        self._leaving: set[BoxID] = set()
        self.boxes: Mapping[BoxID, Box] = MappingProxyType(self._boxes)

    def by_name(self, name: str) -> Box | None:
        box_id = self._names.get(name)
        return None if box_id is None else self._boxes.get(box_id)

    def require(self, box_id: BoxID) -> Box:
        """The box, if it may be written. Raises NotFound, also when its deletion is under way."""
        box = self._boxes.get(box_id)
        if box is None or box_id in self._leaving:
            raise NotFound(f"there is no box {box_id}: it was removed")
        return box

    def reserve(self, box: Box) -> None:
        """Hold id and name until `put` or `release`. Raises AlreadyExists."""
        if box.name in self._names:
            raise AlreadyExists(f"a box named {box.name!r} exists already: choose another name or remove it")
        if box.box_id in self._boxes or box.box_id in self._arriving:
            raise AlreadyExists(f"the box {box.box_id} exists already")
        self._names[box.name] = box.box_id
        self._arriving.add(box.box_id)

    def release(self, box: Box) -> None:
        self._names.pop(box.name, None)
        self._arriving.discard(box.box_id)

    def put(self, box: Box) -> None:
        self._arriving.discard(box.box_id)
        self._names[box.name] = box.box_id
        self._boxes[box.box_id] = box

    def change(self, box_id: BoxID, changes: Mapping[str, Any]) -> None:
        self._boxes[box_id] = msgspec.structs.replace(self._boxes[box_id], **changes)

    def leave(self, box_id: BoxID) -> None:
        self._leaving.add(box_id)

    def stay(self, box_id: BoxID) -> None:
        self._leaving.discard(box_id)

    def drop(self, box_id: BoxID) -> None:
        box = self._boxes.pop(box_id)
        self._names.pop(box.name)
        self._leaving.discard(box_id)
