"""The wheel set: boxlited built from this checkout, its dependencies as wheels for the guest's Python.

Uses pip as this machine has it configured. Dependencies are kept until pyproject.toml changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomli

REPOSITORY = Path(__file__).parents[2]
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
IN_THE_WHEEL = ("boxlited", "pyproject.toml", "README.md")
EARLIEST_ZIP = "315532800"  # 1980: the same content makes the same wheel


def build(directory: Path) -> None:
    """Put the wheel of this checkout into `directory`. The checkout stays as it is."""
    with tempfile.TemporaryDirectory(prefix="boxlited-wheel-") as scratch:
        source = Path(scratch) / "source"
        for name in IN_THE_WHEEL:
            path = REPOSITORY / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                source.mkdir(exist_ok=True)
                shutil.copy(path, source / name)
        _pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(source))


def fetch_dependencies(cache: Path, python: str) -> Path:
    """A directory with the wheels of everything that boxlited depends on; `python` as in "3.11"."""
    wanted = tomli.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    directory = cache / f"dependencies-{digest(python, *sorted(wanted))}"
    if not directory.exists():
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=cache))
        target = ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:"]
        for platform in PLATFORMS:
            target += ["--platform", platform]
        _pip("download", "--dest", str(partial), *target, *wanted)
        partial.rename(directory)
    return directory


def fingerprint(*directories: Path) -> str:
    """Names and content of all wheels."""
    parts = []
    for wheel in sorted(path for directory in directories for path in directory.glob("*.whl")):
        parts += [wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest()]
    return digest(*parts)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        env={**os.environ, "SOURCE_DATE_EPOCH": EARLIEST_ZIP},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"pip {arguments[0]} failed:\n{done.stdout}{done.stderr}"
