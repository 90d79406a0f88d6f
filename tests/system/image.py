"""The disk, kernel and initrd of the virtual machine: built once for each content, cached outside the checkout.

Two layers, because one of them changes with every commit: `base-HASH` is Debian (scripts, suite, kernel
version), `image-HASH` is a disk with boxlited on it (base, wheels, units). A directory appears under its
name only when it is whole. The cache is $BOXLITED_VM_CACHE, or boxlited/system-test in the user's cache directory.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.system import wheels
from tests.system.steps import Steps

SCRIPTS = Path(__file__).parent / "scripts"
OF_THE_BASE = ("debian.sh", "kernel.sh", "init.sh")
OF_THE_IMAGE = ("program.sh", "disk.sh")
UNITS = wheels.REPOSITORY / "systemd"
KEPT_IMAGES = 2
TO_RUN = {"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"}
TO_BUILD = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "lz4": "lz4",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "apt-cache": "apt",
}


class CannotBuild(Exception):
    """Says what is missing on this machine and what to do."""


@dataclass(frozen=True)
class Image:
    disk: Path
    kernel: Path
    initrd: Path

    def copy_disk(self, target: Path) -> None:
        command = ["cp", "--sparse=always", "--reflink=auto", str(self.disk), str(target)]
        subprocess.run(command, check=True, timeout=300)


def cache_directory() -> Path:
    named = os.environ.get("BOXLITED_VM_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "boxlited" / "system-test"


def prepare(steps: Steps) -> Image:
    """The image of this checkout. Raises CannotBuild."""
    _require(TO_RUN)
    if platform.machine() != "x86_64":
        raise CannotBuild(f"the virtual machine is an x86-64 one, this machine is {platform.machine()}")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    suite, kernel = _suite(), _kernel_package()
    with steps.step(f"base: Debian {suite} with {kernel}"):
        base = _once(cache, f"base-{_base_key(suite, kernel)}", lambda work: _build_base(work, suite, kernel))
    python = re.sub("^python", "", os.readlink(base / "root/usr/bin/python3"))
    with tempfile.TemporaryDirectory(prefix="own-", dir=cache) as scratch:
        own = Path(scratch)
        with steps.step(f"wheels: boxlited and its dependencies for Python {python}"):
            wheels.build(own)
            dependencies = wheels.fetch_dependencies(cache, python)
        key = wheels.digest(
            base.name, wheels.fingerprint(own, dependencies), *_contents(UNITS.rglob("*")), *_scripts(OF_THE_IMAGE)
        )
        with steps.step(f"image: image-{key}"):
            image = _once(cache, f"image-{key}", lambda work: _build_image(work, base, own, dependencies))
    _forget_old_images(cache, image)
    return Image(image / "disk", base / "vmlinux", base / "initrd.img")


def _build_base(work: Path, suite: str, kernel: str) -> None:
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if not sources.exists():
        sources = Path("/etc/apt/sources.list")
    copy = work / f"sources{sources.suffix}"
    shutil.copy(sources, copy)
    _run("debian.sh", work / "root", suite, copy)
    _run("kernel.sh", work, work / "root", kernel, SCRIPTS)
    copy.unlink()


def _build_image(work: Path, base: Path, own: Path, dependencies: Path) -> None:
    both = work / "wheels"
    both.mkdir()
    for wheel in [*own.glob("*.whl"), *dependencies.glob("*.whl")]:
        shutil.copy(wheel, both)
    subprocess.run(["cp", "-a", str(base / "root"), str(work / "root")], check=True, timeout=300)
    _run("program.sh", work / "root", both, UNITS)
    _run("disk.sh", work / "root", work / "disk")
    shutil.rmtree(work / "root")
    shutil.rmtree(both)


def _once(cache: Path, name: str, build: Callable[[Path], None]) -> Path:
    """The directory `name`, built when it is not there yet."""
    directory = cache / name
    if directory.exists():
        os.utime(directory)
        return directory
    if os.geteuid() != 0:
        raise CannotBuild(f"building {directory} needs root; a cache that root has filled can be used by anyone")
    _require(TO_BUILD)
    work = Path(tempfile.mkdtemp(prefix=f"partial-{name}-", dir=cache))
    try:
        work.chmod(0o755)
        build(work)
        work.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return directory


def _forget_old_images(cache: Path, current: Path) -> None:
    images = sorted(cache.glob("image-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for image in images[KEPT_IMAGES:]:
        if image != current:
            shutil.rmtree(image, ignore_errors=True)


def _base_key(suite: str, kernel: str) -> str:
    return wheels.digest(suite, kernel, *_scripts(OF_THE_BASE))


def _scripts(names: Iterable[str]) -> list[str]:
    return _contents(SCRIPTS / name for name in names)


def _contents(paths: Iterable[Path]) -> list[str]:
    """Names and texts of files, in the order of their names."""
    return [part for path in sorted(paths) if path.is_file() for part in (path.name, path.read_text())]


def _suite() -> str:
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise CannotBuild(f"the image is built from this machine's Debian, and this is {release.get('PRETTY_NAME')}")
    return release["VERSION_CODENAME"]


def _kernel_package() -> str:
    """The newest kernel for virtual machines that the package lists of this machine know."""
    command = ["apt-cache", "depends", "linux-image-cloud-amd64"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    found = re.search(r"Depends: (linux-image-[0-9]\S+)", listed)
    if found is None:
        raise CannotBuild("no package lists on this machine: run `apt-get update` as root first")
    return found[1]


def _require(tools: dict[str, str]) -> None:
    missing = sorted({package for tool, package in tools.items() if shutil.which(tool, path=_path()) is None})
    if missing:
        raise CannotBuild(f"missing on this machine: {' '.join(missing)}; as root: apt-get install {' '.join(missing)}")


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _run(script: str, *arguments: object) -> None:
    done = subprocess.run(
        [str(SCRIPTS / script), *map(str, arguments)],
        env={**os.environ, "PATH": _path()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode != 0:
        raise CannotBuild(f"{script} failed with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
