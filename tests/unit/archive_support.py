"""Trees and archives for the tests of the transfer. Holds no tests."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from boxlited.shim.archives import ArchiveRefused, Limits, pack, unpack
from boxlited.shim.archives.tarstream import STAGING_PREFIX

Tree = dict[str, tuple[Any, ...]]


def entry(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=kind, linkname=target)


def tar(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def put(data: bytes, path: Path | str, **options: Any) -> None:
    options.setdefault("overwrite", True)
    unpack(io.BytesIO(data).read, str(path), **options)


def refused(kind: str, data: bytes, path: Path | str, **options: Any) -> str:
    """Unpacks what must be refused, and returns the message."""
    with pytest.raises(ArchiveRefused) as caught:
        put(data, path, **options)
    assert caught.value.kind == kind, caught.value.message
    assert caught.value.message.isprintable()
    return caught.value.message


def packed(path: Path | str, **options: Any) -> bytes:
    out = io.BytesIO()
    pack(str(path), out.write, **options)
    return out.getvalue()


def names_of(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return sorted(archive.getnames())


def tree(root: Path) -> Tree:
    """Everything below a directory: kind, mode, content, inode. Fails on a staging directory."""
    found: Tree = {}
    for place, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(place) / name
            info = path.lstat()
            assert STAGING_PREFIX.decode() not in name
            content: Any = None
            if stat.S_ISREG(info.st_mode):
                content = path.read_bytes() if os.access(path, os.R_OK) else "unreadable"
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            kind = stat.S_IFMT(info.st_mode)
            mode = 0 if stat.S_ISLNK(info.st_mode) else stat.S_IMODE(info.st_mode)
            found[str(path.relative_to(root))] = (kind, mode, content, info.st_mtime_ns if content is not None else 0)
    return found


def small(**limits: int) -> Limits:
    return Limits(**{"max_bytes": 1 << 20, "max_entries": 100, "max_depth": 10, **limits})


MIX = tar(
    entry("a", b"new"), directory("d"), entry("d/f", b"new"), entry("fresh", b"new"), entry("m", b"new"),
    entry("sub/x", b"new"), entry("sub/y", b"new"), entry("z", b"new"),
)  # fmt: skip


def target_in(directory: Path) -> Path:
    """A directory with files of its own: MIX changes some of them."""
    (directory / "t/sub").mkdir(parents=True)
    for name in ("a", "m", "z", "sub/x"):
        (directory / "t" / name).write_text("old")
    return directory / "t"
