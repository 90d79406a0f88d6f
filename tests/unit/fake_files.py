"""The files of the fake daemon's boxes: a directory each, packed and unpacked by tarfile.

`shape` is how the archive of a directory names what it holds; daemons differ in it.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

from tests.unit.fake_replies import Answer, problem


class FakeFiles:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.shape = "named"  # or "dot", or "flat"
        self.refusal: Answer | None = None

    def of(self, box_id: str) -> Path:
        path = self._root / box_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def answer(self, request: Any, box_id: str) -> Answer:
        if self.refusal is not None:
            return self.refusal
        path = self.of(box_id) / request.query["path"].lstrip("/")
        if request.method == "PUT":
            with tarfile.open(fileobj=request.body, mode="r|") as archive:
                path.mkdir(parents=True, exist_ok=True)
                archive.extractall(path, filter="tar")
            request.body.read()
            return 204, None
        if not os.path.lexists(path):
            return problem(404, "not_found", f"{request.query['path']}: no such file in the box")
        follow = request.query.get("follow_symlinks") == "true"
        return 200, [self._packed(path, follow)]

    def _packed(self, path: Path, follow: bool) -> bytes:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", dereference=follow) as archive:
            if not path.is_dir() or self.shape == "named":
                archive.add(path, path.name)
            elif self.shape == "dot":
                archive.add(path, ".")
            else:
                for entry in sorted(path.iterdir()):
                    archive.add(entry, entry.name)
        return content.getvalue()
