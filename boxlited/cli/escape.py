"""Makes text that a box wrote or named harmless to a terminal. Pure.

Owns the rule of what is dangerous: control characters (C0, DEL, C1), line and direction marks.
`line` is for one field on one line. `StreamFilter` is for logs on a terminal: text, newlines, tabs
and colours (SGR) pass, everything else becomes visible.
"""

from __future__ import annotations

import codecs
import re

# C0 and DEL, C1, zero-width and direction marks, line and paragraph separators, lone surrogates, BOM
_DANGEROUS = "\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
_FIELD = re.compile(f"[{_DANGEROUS}]")
_TEXT = re.compile(f"(?![\n\t])[{_DANGEROUS}]")
_STREAM = re.compile(rf"(\x1b\[[0-9;:]{{0,64}}m)|\r(?=\n)|(?![\n\t])[{_DANGEROUS}]")
_HELD = re.compile(r"\x1b(\[[0-9;:]{0,64})?\Z|\r\Z")


def _visible(match: re.Match[str]) -> str:
    point = ord(match.group())
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def line(text: object) -> str:
    """`text` on one line: every control character is shown as an escape."""
    return _FIELD.sub(_visible, str(text))


def text(value: object) -> str:
    """As `line`, and newlines and tabs stay."""
    return _TEXT.sub(_visible, str(value))


def _stream_part(match: re.Match[str]) -> str:
    if match.group(1):
        return match.group(1)
    return "" if match.group() == "\r" else _visible(match)


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
