"""A cgroup file system of plain files, for `Cgroups` to find its way in."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxlited.supervisor.cgroup import Cgroups

HOME = Path("/var/lib/boxlited")
KERNELS_FILES = ("cgroup.procs", "cgroup.type", "cgroup.subtree_control")


class Tree:
    """A cgroup file system of plain files; a directory made in it gets the files that the kernel would give it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.own = root.parent / "own"
        self.lines: list[str] = []
        make, remove = Path.mkdir, Path.rmdir

        def mkdir(path: Path, *arguments: object, **options: object) -> None:
            fresh = not path.exists()
            make(path, *arguments, **options)  # type: ignore[arg-type]
            if fresh and self.root in path.parents:
                for name in KERNELS_FILES:
                    (path / name).write_text("")

        def rmdir(path: Path) -> None:
            procs = path / "cgroup.procs"
            if path.is_dir() and (not procs.exists() or not procs.read_text().strip()):
                for entry in path.iterdir():
                    if entry.is_file():
                        entry.unlink()
            remove(path)

        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(Path, "rmdir", rmdir)

    def v2(self, membership: str = "/service", controllers: str = "cpu memory pids", *, at: str = "") -> Path:
        self.lines.append(f"0::{membership}")
        mount = self.root / at if at else self.root
        base = mount / membership.lstrip("/")
        base.mkdir(parents=True, exist_ok=True)
        (mount / "cgroup.controllers").write_text(controllers)
        for name in KERNELS_FILES:
            (base / name).write_text("")
        (base / "cgroup.controllers").write_text(controllers)
        return base

    def v1(self, *names: str, membership: str = "/x") -> None:
        for number, name in enumerate(names, start=1):
            self.lines.append(f"{number}:{name}:{membership}")
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name / "cgroup.procs").write_text("")
            (self.root / name / membership.lstrip("/")).mkdir(exist_ok=True)

    def detect(self) -> Cgroups:
        self.own.write_text("".join(f"{line}\n" for line in self.lines))
        return Cgroups.detect(HOME, self.root, self.own)


def refuse_writes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files whose writing the kernel refuses: put some into it."""
    names: set[str] = set()
    write = Path.write_text

    def write_text(path: Path, text: str, *arguments: str) -> int:
        if path.name in names:
            raise OSError(22, "Invalid argument")
        return write(path, text, *arguments)

    monkeypatch.setattr(Path, "write_text", write_text)
    return names
