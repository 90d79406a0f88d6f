"""`box.json`: a config that can be stored, shown and started again, or none."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from boxlited.api.replies import json_reply
from boxlited.api.schemas import box_view
from boxlited.api.services import HostSize
from boxlited.config import Config
from boxlited.errors import BoxlitedError
from boxlited.model import Box, BoxID, check_name
from boxlited.store.codec import box_from_row, box_values
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.directories import BoxFile, _decode
from boxlited.supervisor.engines import Engines
from boxlited.supervisor.layout import HomeLayout

BOX_ID = BoxID("a" * 16)
HOME = HomeLayout(Path("/nowhere"))
HOST = HostSize(cpus=2, memory_mib=1024)
ENGINES = Engines(Config(), Cgroups(None, frozenset(), {}), HOME, lambda _box, _run: b"key")


def check(data: bytes) -> None:
    config = _decode(data, BOX_ID)
    if config is None:
        return
    check_name(config.name)
    again = msgspec.json.encode(config)
    assert _decode(again, BOX_ID) == config
    _check_row(config)


def _check_row(config: BoxFile) -> None:
    """As recovery makes one of it."""
    box = Box(box_id=BOX_ID, name=config.name, spec=config.spec, created_at=config.created_at)
    assert box_from_row(box_values(box)) == box
    json_reply(box_view(box, HOST))
    try:
        ENGINES.check(config.spec)
    except BoxlitedError as error:
        msgspec.json.encode(error.message)
        return
    json.loads(ENGINES.shim_spec(box, "run", HOME.box(BOX_ID)))
