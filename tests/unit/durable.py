"""What a piece of code makes durable, and in which order: the real calls, written down as they pass."""

from __future__ import annotations

import os
from typing import Any

import pytest


def watch_durability(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on: `sync NAME` for each fsync of a file or directory that is complete then, `rename NAME`."""
    passed: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        passed.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}:{_content(fd)}")
        fsync(fd)

    def renamed(source: Any, target: Any, **options: Any) -> None:
        passed.append(f"rename {os.path.basename(os.fspath(target))}")
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    return passed


def _content(fd: int) -> str:
    """Bytes of a file, entries of a directory: a sync before the write would show as 0."""
    target = f"/proc/self/fd/{fd}"
    return str(len(os.listdir(target)) if os.path.isdir(target) else os.stat(target).st_size)
