"""Pages of boxes: oldest first, and tokens that stay right while boxes come and go."""

from __future__ import annotations

import base64

import msgspec

from boxlited.errors import InvalidArgument
from boxlited.model import Box


def page_of(rows: list[Box], size: int, token: str | None) -> tuple[list[Box], str | None]:
    """One page, and the token of the next. Raises InvalidArgument for a token that is not ours."""
    rows.sort(key=_page_key)
    if token is not None:
        after = _decode_token(token)
        rows = [box for box in rows if _page_key(box) > after]
    page = rows[:size]
    return page, _encode_token(page[-1]) if len(rows) > size else None


def _page_key(box: Box) -> tuple[float, str]:
    return box.created_at, str(box.box_id)  # the encoder takes no subclass of str


def _encode_token(box: Box) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(_page_key(box))).decode()


def _decode_token(token: str) -> tuple[float, str]:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token.encode()), type=tuple[float, str])
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument("pageToken is not one that this server gave: begin again without it") from error
