"""How a box's end becomes an exit code. Pure."""

from __future__ import annotations

from boxlited.cli import exits
from boxlited.cli.parse import signal_number
from boxlited.client.values import BoxInfo
from boxlited.errors import InvalidArgument

_PEACEFUL = frozenset({"user", "exited", "auto_stop", "drained"})


def exit_code_of(box: BoxInfo, unknown: int = exits.FAILED) -> int:
    """As a shell has it: the code, or 128 + n for signal n; `unknown` when nobody knows."""
    code = box.get("exit_code")
    if code is not None:
        return code & 0xFF
    name = box.get("exit_signal")
    if name:
        try:
            return 128 + signal_number(name)
        except InvalidArgument:
            return unknown
    if box.get("status") in {"stopped", "configured"} and box.get("stop_cause") in _PEACEFUL | {None}:
        return exits.OK
    return unknown
