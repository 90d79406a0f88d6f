"""What tests of boxctl in this process share."""

from __future__ import annotations

from typing import NamedTuple

WEB, DB = "webaaaaaaaaaaaaa", "dbbbbbbbbbbbbbbb"


class Result(NamedTuple):
    code: int
    out: str
    err: str
