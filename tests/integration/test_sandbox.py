"""What a workload in engine `sandbox` sees and may do. Asked from inside, and looked at from outside."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxlited.errors import InvalidArgument, Unsupported
from tests.integration.daemon_harness import Daemon
from tests.integration.test_lifecycle import workload_of

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
CAP_CHOWN, CAP_NET_RAW, CAP_SYS_ADMIN = 1 << 0, 1 << 13, 1 << 21
DEFAULTS = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "xterm",
    "LANG": "C.UTF-8",
}
ROOT_DIRECTORIES = "bin dev etc lib lib32 lib64 libx32 proc root run sbin tmp usr var"
DEVICES = "console core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon(on_disk=True) as daemon:
        yield daemon.start({"SECRET_OF_THE_DAEMON": "unseen", "HOME": "/home/of-the-daemon"})


def said(daemon: Daemon, script: str, **spec: Any) -> str:
    """What a shell script in a new box prints."""
    box = daemon.run(["/bin/sh", "-c", script], **spec)
    return said_by(daemon, box["box_id"])


def said_by(daemon: Daemon, box_id: str) -> str:
    daemon.client.wait(box_id, 20)
    text = b"".join(daemon.client.logs(box_id)).decode()
    daemon.client.remove(box_id)
    return text


def status_of(text: str) -> dict[str, str]:
    """/proc/PID/status as a table."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_every_namespace_is_its_own(shared: Daemon) -> None:
    boxes = [shared.run() for _ in range(2)]  # both alive: the kernel gives a number of a namespace that is gone anew
    workloads = [workload_of(box["pid"]) for box in boxes]
    for name in NAMESPACES:
        links = [os.readlink(f"/proc/{pid}/ns/{name}") for pid in (*workloads, "self")]
        assert len(set(links)) == 3, f"{name} is shared: {links}"
    for box in boxes:
        shared.client.remove(box["box_id"], force=True)


def test_no_privilege_and_no_capability_is_left(shared: Daemon) -> None:
    status = status_of(said(shared, "cat /proc/self/status"))
    assert status["NoNewPrivs"] == "1"
    assert {name: int(status[name], 16) for name in CAPABILITY_SETS} == dict.fromkeys(CAPABILITY_SETS, 0)


def test_no_capability_comes_back_through_a_nested_user_namespace(shared: Daemon) -> None:
    """Where uid 0 of the box is that of the host, it would serve to mount a cgroup and lift its limits."""
    assert "gained" not in said(shared, "unshare --user /bin/sh -c 'echo gained'; unshare --user --net echo gained")


@pytest.mark.parametrize(
    ("add", "drop", "left"),
    [
        (["NET_RAW", "CAP_CHOWN"], [], CAP_NET_RAW | CAP_CHOWN),
        (["net_raw", "CHOWN"], ["CAP_CHOWN"], CAP_NET_RAW),
        (["NET_RAW"], ["ALL"], CAP_NET_RAW),
        ([], ["ALL"], 0),
    ],
)
@pytest.mark.parametrize("user", [None, "1234"])
def test_capabilities_are_those_asked_for(
    shared: Daemon, add: list[str], drop: list[str], left: int, user: str | None
) -> None:
    spec = {"advanced": {"capabilities": {"add": add, "drop": drop}}, "user": user}
    status = status_of(said(shared, "cat /proc/self/status", **spec))
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {left}


def test_what_is_named_to_drop_goes_from_all(shared: Daemon) -> None:
    spec = {"advanced": {"capabilities": {"add": ["ALL"], "drop": ["SYS_ADMIN"]}}}
    effective = int(status_of(said(shared, "cat /proc/self/status", **spec))["CapEff"], 16)
    assert effective & CAP_NET_RAW
    assert not effective & CAP_SYS_ADMIN


@pytest.mark.parametrize("which", ["add", "drop"])
def test_unknown_capability_is_refused_by_name(shared: Daemon, which: str) -> None:
    with pytest.raises(InvalidArgument, match="CAP_NOPE"):
        said(shared, "true", advanced={"capabilities": {which: ["NOPE"]}})


def test_kernel_settings_cannot_be_written(shared: Daemon) -> None:
    """The kernel lets uid 0 of the host write a sysctl, whatever capabilities it lacks."""
    text = said(shared, "find /proc/sys -type f -writable 2>/dev/null; : >> /proc/sys/kernel/core_pattern && echo open")
    assert "open" not in text
    assert "/proc/sys/" not in text.replace("/proc/sys/kernel/core_pattern: ", "")


def test_host_is_read_only_and_little_of_it_is_there(shared: Daemon) -> None:
    script = "touch /usr/x /etc/x 2>&1; for d in / /root /run /var/tmp /dev/shm /dev; do echo -- $(ls -A $d); done"
    refused, root, *empty, devices = said(shared, script).split("--")
    assert refused.count("Read-only file system") == 2
    assert {"dev", "etc", "proc", "root", "run", "tmp", "usr", "var"} <= set(root.split())
    assert set(root.split()) <= set(ROOT_DIRECTORIES.split())
    assert [words.strip() for words in empty] == [""] * 4
    assert set(devices.split()) <= set(DEVICES.split())


def test_processes_and_tmp_are_its_own(shared: Daemon, tmp_path: Path) -> None:
    text = said(shared, f"ls -d /proc/[0-9]*; ls -A /tmp; ls -d {tmp_path} {shared.home}; touch /tmp/mine && echo ok")
    processes = [line for line in text.splitlines() if line.startswith("/proc/")]
    assert processes[0] == "/proc/1"
    assert len(processes) <= 4  # bubblewrap's init, the shell, ls
    assert text.count("No such file or directory") == 2
    assert text.endswith("ok\n")


def test_home_is_private_and_persists_over_a_restart(shared: Daemon) -> None:
    box = shared.run(["/bin/sh", "-c", "cat note 2>/dev/null || echo first; echo kept > note; stat -c %a ."])
    other = said(shared, "ls -A $HOME")
    shared.client.wait(box["box_id"], 20)
    shared.client.start(box["box_id"])
    assert said_by(shared, box["box_id"]).split() == ["first", "700", "kept", "700"]
    assert other == ""


def test_open_descriptors_are_exactly_the_three(shared: Daemon) -> None:
    box = shared.run()
    workload = workload_of(box["pid"])
    held = {int(fd): os.readlink(f"/proc/{workload}/fd/{fd}") for fd in os.listdir(f"/proc/{workload}/fd")}
    assert set(held) == {0, 1, 2}
    assert held[0] == "/dev/null"
    assert held[1] == held[2]
    assert held[1].startswith("pipe:")
    shared.client.remove(box["box_id"], force=True)


def test_environment_is_what_was_asked_for_and_the_defaults(shared: Daemon) -> None:
    box = shared.run(env={"A": "b c", "LANG": "de_DE.UTF-8", "EMPTY": ""}, name="env-box")
    workload = workload_of(box["pid"])
    raw = Path(f"/proc/{workload}/environ").read_text().rstrip("\0").split("\0")
    expected = {**DEFAULTS, "HOSTNAME": "env-box", "PWD": "/root", "A": "b c", "LANG": "de_DE.UTF-8", "EMPTY": ""}
    assert dict(pair.split("=", 1) for pair in raw) == expected
    init = int(status_of(Path(f"/proc/{workload}/status").read_text())["PPid"])
    assert b"SECRET_OF_THE_DAEMON" not in Path(f"/proc/{init}/environ").read_bytes()
    shared.client.remove(box["box_id"], force=True)


def test_files_are_made_as_usual_and_not_with_the_daemons_umask(shared: Daemon) -> None:
    assert said(shared, "umask; touch x; stat -c %a x").split() == ["0022", "644"]


def test_hostname_is_the_name_of_the_box(shared: Daemon) -> None:
    assert said(shared, "hostname; echo $HOSTNAME", name="My_box.1").split() == ["My-box-1", "My-box-1"]
    assert socket.gethostname() != "My-box-1"


def test_network_is_off_by_default(shared: Daemon) -> None:
    devices = [line.split(":")[0].strip() for line in said(shared, "cat /proc/net/dev").splitlines()[2:]]
    assert devices == ["lo"]


@pytest.mark.parametrize("network", [{"outbound": {"mode": "enabled"}}, {"mode": "enabled"}])
def test_network_is_the_hosts_when_asked_for(shared: Daemon, network: dict[str, Any]) -> None:
    assert said(shared, "readlink /proc/self/ns/net", network=network).strip() == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize(
    ("user", "uid", "gid"),
    [
        (None, 0, 0),
        ("1234", 1234, 1234),
        ("1234:99", 1234, 99),
        ("nobody", NOBODY.pw_uid, NOBODY.pw_gid),
        ("nobody:99", NOBODY.pw_uid, 99),
        ("1234:root", 1234, 0),
    ],
)
def test_user_is_the_one_asked_for(shared: Daemon, user: str | None, uid: int, gid: int) -> None:
    text = said(shared, "id -u; id -g; touch mine; stat -c '%u %g' mine /tmp", user=user)
    assert text.split() == [str(uid), str(gid), *[str(uid), str(gid)] * 2]


@pytest.mark.parametrize(
    "user", ["no-such-user", "1234:no-such-group", "nobody:no-such-group", "-1", "4294967295", "1:"]
)
def test_user_that_does_not_exist_is_refused_by_name(shared: Daemon, user: str) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        said(shared, "id", user=user)


def test_working_dir(shared: Daemon) -> None:
    assert said(shared, "pwd") == "/root\n"
    assert said(shared, "pwd", working_dir="/usr/bin") == "/usr/bin\n"
    with pytest.raises(InvalidArgument, match=r"working_dir.*/no/such"):
        said(shared, "pwd", working_dir="/no/such")
    with pytest.raises(InvalidArgument, match="absolute"):
        said(shared, "pwd", working_dir="usr")


def test_engine_process_is_refused_unless_enabled(shared: Daemon) -> None:
    with pytest.raises(Unsupported, match=r"not enabled.*\[engines\]"):
        shared.create(engine="process")


@pytest.mark.parametrize(
    "wish",
    [
        {"advanced": {"capabilities": {"add": ["NET_RAW"]}}},
        {"network": {"mode": "disabled"}},
        {"rootfs_path": "/usr", "image": None},
        {"volumes": [{"host_path": "/usr", "guest_path": "/x"}]},
    ],
)
def test_engine_process_refuses_what_it_cannot_honour(wish: dict[str, Any]) -> None:
    with Daemon("[engines]\nenabled = ['process', 'sandbox']\n") as daemon, pytest.raises(Unsupported, match="process"):
        daemon.start().create(engine="process", **wish)
