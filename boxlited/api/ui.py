"""The web page at /ui: put together from the files in `page` into one document without outside parts.

Owns the document and the headers that bound it. It holds nothing about boxes: its script asks the
API for that, with the token of whoever looks. The policy admits exactly the script and the style of
this document, so text of a box that would get into the page as markup could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from boxlited.api.call import Call
from boxlited.api.replies import Headers, Reply

PATH = "/ui"

_HTML = b"text/html; charset=utf-8"
_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("text", "calls", "feed", "table", "panel", "logs", "timeline", "actions", "main")


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _script() -> str:
    parts = "".join(_read(f"{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _digest(text: str) -> str:
    """A source of a content security policy that admits this text alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(script: str, style: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_digest(script)}",
            f"style-src {_digest(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _build() -> tuple[bytes, Headers]:
    script, style = _script(), _read("style.css")
    document = _read("index.html").replace("{{style}}", style).replace("{{script}}", script)
    headers = (
        (b"content-security-policy", _policy(script, style).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-cache"),
    )
    return document.encode(), headers


DOCUMENT, HEADERS = _build()


async def page(call: Call) -> Reply:
    """Served without a token and before recovery has ended: it says so itself, and waits."""
    return Reply(200, DOCUMENT, _HTML, HEADERS)
