"""Makes text that a box wrote or named harmless to a terminal. Pure.

Owns the rule of what is dangerous: control characters (C0, DEL, C1), line and direction marks.
`line` is for one field on one line. `StreamFilter` is for logs on a terminal: text, newlines, tabs
and colours (SGR) pass, everything else becomes visible.
"""

from __future__ import annotations

import codecs
import re

_DANGEROUS = "".join(
    (
        "\x00-\x1f\x7f-\x9f",  # C0, DEL and C1
        "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb",  # unseen, direction
        "\u2028\u2029",  # line and paragraph separators
        "\ud800-\udfff",  # lone surrogates: cannot be written
        "\U000e0000-\U000e007f",  # tags
    )
)
_FIELD = re.compile(f"[{_DANGEROUS}]")
_TEXT = re.compile(f"(?![\n\t])[{_DANGEROUS}]")
_STREAM = re.compile(rf"(\x1b\[[0-9;:]{{0,64}}m)|(\r)(?=\n)|(?![\n\t])[{_DANGEROUS}]")
_HELD = re.compile(r"\x1b(\[[0-9;:]{0,64})?\Z|\r\Z")


def _visible(match: re.Match[str]) -> str:
    point = ord(match.group())
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def line(text: object) -> str:
    """`text` on one line: every control character is shown as an escape."""
    return _FIELD.sub(_visible, str(text))


def text(value: object) -> str:
    """As `line`, and newlines and tabs stay."""
    return _TEXT.sub(_visible, str(value))


def _stream_part(match: re.Match[str]) -> str:
    if match.group(1):
        return match.group(1)
    return "" if match.group(2) else _visible(match)


class StreamFilter:
    """Bytes of a log in, text for a terminal out. Sequences split over chunks are recognised."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, chunk: bytes, final: bool = False) -> str:
        pending = self._held + self._decoder.decode(chunk, final)
        self._held = ""
        if not final and (held := _HELD.search(pending)):
            pending, self._held = pending[: held.start()], pending[held.start() :]
        return _STREAM.sub(_stream_part, pending)
