"""Keeps pages of other sites from using a browser that reaches the API. Pure.

A unix socket asks for no token, and can be brought into a browser's reach (`ssh -L`, a proxy).
From then on any page that the browser shows could send requests to it; only reading the replies
would be denied. Programs that are no browsers send none of what is looked at, and notice nothing.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from boxlited.api.call import Call
from boxlited.errors import PermissionDenied

OPEN_TO_LINKS = frozenset({"/ui"})  # holds no data, so that another page may lead to it
_OWN_SITES = frozenset({"same-origin", "none"})  # "same-site" is another port of this host


def check_origin(call: Call, *, has_token: bool) -> None:
    """Raises PermissionDenied when another site's page asks, or may have given us its own name."""
    if call.path in OPEN_TO_LINKS:
        return
    host = call.header(b"host") or ""
    site = call.header(b"sec-fetch-site")
    origin = call.header(b"origin")
    if site is not None:  # what the browser found counts, whatever a proxy made of the names
        is_foreign = site not in _OWN_SITES
    else:
        is_foreign = origin is not None and _authority(origin) != host.lower()
    if is_foreign:
        raise PermissionDenied("a page of another origin may not use this API")
    if not has_token and not _is_local(host):
        raise PermissionDenied(f"this socket is not asked by the name {host[:64]!r}: use http://localhost/")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    """A name without a dot, or an address: the owner of a domain cannot have made it ours."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if "." not in name.removesuffix(".localhost") and ":" not in name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
