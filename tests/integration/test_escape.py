"""A list of ways out of a sandbox, each tried from inside: by the workload, and by a command beside it.

What is in `escape/` does the trying, in a box; here it is judged what came of it. Everything holds for a daemon
of root and of an ordinary user; where the tests are run by root, both are tried.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from boxlited.supervisor.engines import bwrap_path
from tests.integration.daemon_harness import Daemon
from tests.integration.escape.program import program
from tests.integration.ordinary import USERS, daemon_of

PYTHON = "/usr/bin/python3"
SECRET = b"boxlited-test-secret"
KEYCTL = {"x86_64": (248, 250)}.get(platform.machine(), (217, 219))
NO_SUCH = frozenset({"ESRCH", "ENOENT"})
REFUSED = frozenset(
    {"EPERM", "EACCES", "EROFS", "ENOSYS", "ENOENT", "ENODEV", "EINVAL", "ENOSPC", "ETXTBSY", "ENXIO", "ENOTTY"}
)

pytestmark = pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason="the probe needs the host's own Python in /usr")
libc = ctypes.CDLL(None, use_errno=True)


class Told(NamedTuple):
    """What one probe said, and what the host looked like meanwhile."""

    said: dict[str, Any]
    daemon: Daemon
    box: dict[str, Any]
    is_root: bool
    network: bool


@pytest.fixture(scope="module", params=USERS)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with daemon_of(request.param) as one, Key(one), ExitStack() as stack:
        one.listener = stack.enter_context(socket.socket(socket.AF_UNIX))  # type: ignore[attr-defined]
        one.listener.bind(f"\0boxlited-test-{os.getpid()}")  # type: ignore[attr-defined]
        one.listener.listen()  # type: ignore[attr-defined]
        one.port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # type: ignore[attr-defined]
        yield one.start()


class Key:
    """A secret in the keyring of the user and of the session that the daemon is started in."""

    def __init__(self, daemon: Daemon) -> None:
        self.serials: list[int] = []
        daemon.keys = self  # type: ignore[attr-defined]

    def __enter__(self) -> Key:
        for ring in (-3, -4):
            serial = libc.syscall(KEYCTL[0], b"user", SECRET, b"secret", 6, ring)
            if serial > 0:
                self.serials.append(serial)
        return self

    def __exit__(self, *_: object) -> None:
        for serial in self.serials:
            libc.syscall(KEYCTL[1], 3, serial)  # revoke


def hints(daemon: Daemon, other: dict[str, Any]) -> str:
    assert daemon.process is not None
    home = daemon.home
    box = daemon.box_dir(other["box_id"])
    paths = [daemon.root, home, home / "control.key", home / "db/boxlited.db", daemon.socket, box, box / "upper"]
    paths += [
        box / "sockets/control.sock",
        Path(__file__),
        Path(sys.prefix),
        Path("/home"),
        Path("/boot"),
        Path("/sys"),
    ]
    own = [daemon.process.pid, os.getpid(), os.getppid(), other["pid"], daemon.sentinels[0].pid]
    return json.dumps(
        {
            "pids": own,
            "keys": daemon.keys.serials,  # type: ignore[attr-defined]
            "abstract": f"boxlited-test-{os.getpid()}",
            "port": daemon.port.getsockname()[1],  # type: ignore[attr-defined]
            "paths": [str(path) for path in paths],
        }
    )


@pytest.fixture(scope="module", params=["workload", "command", "workload with network"])
def told(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Told]:
    """The probe's words from one place in a box."""
    network = request.param == "workload with network"
    spec = {"network": {"mode": "enabled"}} if network else {}
    other = daemon.run()
    argv = [PYTHON, "-c", program(), hints(daemon, other)]
    if request.param == "command":
        box = daemon.run()
        text = daemon.client.run_command(box["box_id"], argv).stdout
    else:
        box = daemon.run(argv) if not network else daemon.run(argv, **spec)
        daemon.client.wait(box["box_id"], 60)
        text = b"".join(daemon.client.logs(box["box_id"]))
    said = json.loads(text.decode().splitlines()[-1])
    yield Told(said, daemon, box, "setpriv" not in daemon.prefix and os.geteuid() == 0, network)
    for one in (box, other):
        daemon.client.remove(one["box_id"], force=True)


def denied(results: dict[str, str], but: frozenset[str] = frozenset()) -> bool:
    allowed = {name: result for name, result in results.items() if result not in REFUSED | but}
    assert not allowed, f"let through: {allowed}"
    return True


# -- mounts


def test_no_mount_can_be_made_changed_or_taken_away(told: Told) -> None:
    assert denied(told.said["mounting"])


def test_what_can_be_written_is_the_boxs_own(told: Told) -> None:
    """/, /var, /run and the like are an empty file system in memory, which ends with the box."""
    mounts = {path: (read_only, kind) for path, read_only, kind in told.said["mounts"]}
    writable = {
        path
        for path, (read_only, kind) in mounts.items()
        if not read_only and kind not in ("proc", "devtmpfs", "devpts")
    }
    assert writable <= {"/", "/run", "/root", "/tmp", "/dev", "/dev/shm"}
    assert {path for path in writable if mounts[path][1] != "tmpfs"} <= {"/root", "/tmp"}
    for place in told.said["writable_directories"]:
        assert place in ("/", "/tmp", "/root", "/run", "/var", "/var/tmp", "/dev", "/dev/shm")


# -- /proc and /sys


def test_no_setting_of_the_kernel_is_open(told: Told) -> None:
    """/proc/pressure takes a trigger of one's own and changes nothing."""
    assert [path for path in told.said["kernel_files"]["writable"] if not path.startswith("/proc/pressure/")] == []
    assert told.said["sys_is_there"] is False


def test_what_is_roots_alone_is_covered(told: Told) -> None:
    secret = [path for path in told.said["kernel_files"]["secret"] if not path.startswith("/proc/sys/")]
    assert secret == []
    named = told.said["named_kernel_files"]
    assert named["kcore"] != "done"
    assert named["kmsg"] != "done"
    assert named["sysrq-trigger"] != "done"
    assert named["keys"] in ("EACCES", "empty", "ENOENT")
    assert told.said["kernel_addresses"] in (0, "EACCES", "EPERM", "ENOENT")


def test_no_program_that_runs_the_box_can_be_changed(told: Told) -> None:
    """A file may be changed by its owner, and root's box has root's files before it: by its links in /proc too."""
    assert denied(told.said["programs_of_the_host"])
    first = told.said["first_process"]
    assert denied(first["modes"])
    assert denied(first["times"])
    for path, (write, mode) in dict(told.said["mapped_files"]).items():
        assert write in REFUSED, path
        assert mode in REFUSED, path


# -- devices and terminals


def test_no_device_can_be_made_and_those_that_are_there_are_harmless(told: Told) -> None:
    made = told.said["devices"]["made"]
    assert denied(made, frozenset({"EEXIST"}))
    assert set(told.said["devices"]["there"]) <= {
        "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    }  # fmt: skip


def test_nothing_can_be_pushed_into_a_terminal(told: Told) -> None:
    assert denied(told.said["terminal"])
    assert told.said["session"]["controlling"] in ("ENXIO", "ENOENT")


# -- processes


def test_processes_outside_are_neither_seen_nor_reached(told: Told) -> None:
    for pid, results in told.said["outside"].items():
        assert set(results.values()) <= NO_SUCH, (pid, results)
    commands = {command for _pid, command in told.said["processes"]}
    assert not any(command.startswith("boxlited") for command in commands)
    assert len(told.said["processes"]) <= 5
    assert told.said["parent"] in (0, 1, 2) or told.said["parent"] < 20


def test_the_first_process_has_no_more_rights_than_the_box(told: Told) -> None:
    first = told.said["first_process"]
    assert {int(word, 16) for word in first["capabilities"]} == {0}
    if isinstance(first["fds"], list):
        assert [link for link in first["fds"] if link.startswith("/") and link != "/dev/null"] == []


def test_descriptors_are_three_and_none_is_a_file_of_the_host(told: Told) -> None:
    """Beyond them are only those that the probe opened itself."""
    held = {int(fd): link for fd, link in told.said["descriptors"].items()}
    assert {0, 1, 2} <= set(held)
    ours = ("anon_inode:[pidfd]", "anon_inode:[userfaultfd]", "anon_inode:[io_uring]", "mnt:")
    assert all(link.startswith(ours) for fd, link in held.items() if fd > 2), held
    for fd in (0, 1, 2):
        assert held[fd] == "/dev/null" or held[fd].startswith("pipe:"), held


# -- keyrings


def test_keyrings_are_out_of_reach(told: Told) -> None:
    assert set(told.said["keyrings"].values()) == {"ENOSYS"}, told.said["keyrings"]


# -- privileges


def test_no_privilege_is_left_or_comes_back(told: Told) -> None:
    status = told.said["privileges"]
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert all(told.said["set_id_programs"].values())
    assert denied(told.said["identities"])


def test_no_namespace_can_be_made_or_joined(told: Told) -> None:
    assert denied(told.said["namespaces"])


def test_the_machine_is_not_the_boxs(told: Told) -> None:
    assert denied(told.said["machine"])
    assert socket.gethostname() != "escaped"


def test_control_groups_are_out_of_sight(told: Told) -> None:
    assert told.said["cgroups"]["there"] is False
    assert set(told.said["cgroups"]["own"]) == {"/"}


# -- network


def test_network_that_is_off_is_off(told: Told) -> None:
    network = told.said["network"]
    assert denied({name: network[name] for name in ("raw", "packet", "new interface")})
    if told.network:
        assert network["abstract"] == "done"  # the network is the host's, and so are these
        assert network["loopback"] == "done"
        return
    assert network["interfaces"] == ["lo"]
    assert network["routes"] == 0
    assert network["out"] == "ENETUNREACH"
    assert network["abstract"] == "ECONNREFUSED"
    assert network["loopback"] == "ECONNREFUSED"
    assert network["vsock"] == "EAFNOSUPPORT"


# -- files


def test_nothing_of_the_host_or_the_daemon_is_there(told: Told) -> None:
    allowed = {sys.prefix} if sys.prefix.startswith("/usr/") else set()
    assert [path for path, there in told.said["paths"].items() if there and path not in allowed] == []
    assert not any("BOXLITED" in name for name in told.said["environment"])


def test_every_attempt_was_made(told: Told) -> None:
    """An attempt that broke says so, and has proven nothing."""
    broken = {name: said for name, said in told.said.items() if isinstance(said, str) and "Error:" in said}
    assert broken == {}


# -- what is shared


def test_a_box_that_spoils_its_first_program_spoils_no_other(daemon: Daemon) -> None:
    """All boxes of a daemon are made by one copy of bubblewrap, in memory; the host's own file is out of reach."""
    before = Path(bwrap_path()).stat()
    box = daemon.run(["/bin/sh", "-c", "chmod 0 /proc/1/exe; chmod 4777 /proc/1/exe; touch /proc/1/exe; echo tried"])
    daemon.client.wait(box["box_id"], 20)
    assert b"tried" in b"".join(daemon.client.logs(box["box_id"]))
    after = Path(bwrap_path()).stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    other = daemon.run()
    assert other["status"] == "running"
    for one in (box, other):
        daemon.client.remove(one["box_id"], force=True)


def test_what_steers_the_loader_in_the_box_steers_nothing_outside(daemon: Daemon, tmp_path: Path) -> None:
    """bubblewrap runs outside, as the daemon's user: the box's environment must not tell it what to load or write."""
    tmp_path.chmod(0o777)
    env = {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": str(tmp_path / "written"), "LD_LIBRARY_PATH": "/box/only"}
    box = daemon.run(["/bin/sh", "-c", "echo $LD_DEBUG $LD_LIBRARY_PATH"], env=env)
    daemon.client.wait(box["box_id"], 20)
    assert b"libs /box/only" in b"".join(daemon.client.logs(box["box_id"]))
    assert list(tmp_path.iterdir()) == []
    daemon.client.remove(box["box_id"])
