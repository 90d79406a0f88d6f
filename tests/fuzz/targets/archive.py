"""A tar stream into a directory: all of it or nothing, and nothing outside."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from boxlited.shim.archives import ArchiveRefused, Limits, unpack
from tests.fuzz.scratch import scratch

BASE = scratch()
LIMITS = Limits(max_bytes=1 << 20, max_entries=100, max_depth=10)


def check(data: bytes) -> None:
    """The first byte says how it is unpacked; checksums are made right, or no header would be read."""
    how, stream = (data[0] if data else 0), _with_checksums(data[1:])
    _prepare()
    before = _outside()
    into = BASE / ("place" if how & 1 else "fresh/deep")
    inside = _listing(BASE / "place")
    descriptors = os.listdir("/proc/self/fd")
    try:
        unpack(
            io.BytesIO(stream).read,
            f"{into}{'/' if how & 2 else ''}",
            overwrite=bool(how & 4),
            limits=LIMITS,
            source_is_dir=(None, True, False)[(how >> 3) % 3],
        )
    except ArchiveRefused as refused:
        assert refused.message.isprintable()
        assert len(refused.message) < 1000
        assert _listing(BASE / "place") == inside
        assert not (BASE / "fresh").exists()
    assert os.listdir("/proc/self/fd") == descriptors
    assert _outside() == before
    assert not [name for name in _listing(BASE) if ".boxlited-put-" in name]


def _with_checksums(data: bytes) -> bytes:
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        block = blocks[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(blocks)


def _prepare() -> None:
    shutil.rmtree(BASE)
    (BASE / "sentinel").mkdir(parents=True)
    (BASE / "sentinel/secret").write_text("secret")
    (BASE / "place/d").mkdir(parents=True)
    (BASE / "place/d/f").write_text("inside")
    (BASE / "place/out").symlink_to("../sentinel")
    (BASE / "place/file-out").symlink_to("../sentinel/secret")


def _outside() -> list[tuple[object, ...]]:
    return [*_listing(BASE / "sentinel").items(), *((name,) for name in os.listdir(BASE) if name != "fresh")]


def _listing(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for place, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            info = os.lstat(path)
            found[path] = (info.st_mode, info.st_ino, info.st_size, info.st_nlink if name == "secret" else 0)
    return found
