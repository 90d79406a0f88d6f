"""What the daemon hands to the API once, for all requests."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import trio

from boxlited.api.ports import SupervisorPort

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostSize:
    """What a box without limits has: shown where the contract wants a number."""

    cpus: int
    memory_mib: int

    @classmethod
    def probe(cls) -> HostSize:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(cpus=len(os.sched_getaffinity(0)), memory_mib=pages // _MIB)


@dataclass(frozen=True, slots=True)
class Services:
    """`stopping` is set when the server begins to shut down: streams and long polls end then."""

    supervisor: SupervisorPort
    max_upload_bytes: int = 16 << 30
    stop_seconds: float = 30.0  # the grace of a stop that does not say one
    home: str | None = None  # where the boxes are; said to users of this host alone
    stopping: trio.Event = field(default_factory=trio.Event)
    host: HostSize = field(default_factory=HostSize.probe)
