"""What of the host a sandbox may touch: volumes, a directory as its root, and the log that it fills."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxlited.errors import InvalidArgument, Unsupported
from tests.integration.daemon_harness import Daemon, until
from tests.integration.test_sandbox import said, said_by

PROGRAMS = ("sh", "cat", "ls", "rm", "touch", "id", "stat", "mv", "ln", "mkdir")


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon(on_disk=True) as daemon:
        yield daemon.start()


def volume(host: Path | str, guest: str, *, read_only: bool = False) -> list[dict[str, Any]]:
    return [{"host_path": str(host), "guest_path": guest, "read_only": read_only}]


# -- volumes


def test_volume_is_read_and_written_on_the_host(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    assert (
        said(shared, "cat /data/in; echo from the box > /data/out", volumes=volume(tmp_path, "/data"))
        == "from the host\n"
    )
    assert (tmp_path / "out").read_text() == "from the box\n"
    assert (tmp_path / "out").stat().st_uid == os.geteuid()


def test_read_only_volume_is_read_only_with_all_below_it(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    text = said(
        shared,
        "touch /data/x /data/below/x 2>&1; rm -r /data/below 2>&1",
        volumes=volume(tmp_path, "/data", read_only=True),
    )
    assert text.count("Read-only file system") == 3
    assert os.listdir(tmp_path) == ["below"]


def test_a_file_can_be_a_volume(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("just this\n")
    (tmp_path / "other").write_text("hidden\n")
    text = said(shared, "cat /etc-one; ls /root", volumes=volume(tmp_path / "one", "/etc-one"))
    assert text == "just this\n"


def test_missing_host_path_fails_the_start_by_name(shared: Daemon) -> None:
    box = shared.create(["true"], volumes=volume("/no/such/dir", "/data"))
    with pytest.raises(InvalidArgument, match=r"'/no/such/dir' does not exist"):
        shared.client.start(box["box_id"])
    row = shared.get(box["box_id"])
    assert (row["status"], row["stop_cause"], row["error_kind"]) == ("failed", "start_failed", "config")
    assert "/no/such/dir" in row["failure_reason"]
    shared.client.remove(box["box_id"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_host_path_that_the_daemon_may_not_use_says_so(shared: Daemon) -> None:
    with pytest.raises(InvalidArgument, match="Permission denied"):
        said(shared, "true", volumes=volume("/root/x", "/data"))


@pytest.mark.parametrize("guest", ["data", "/a/../etc", "/a//b", "/./a", "/", "/usr/x", "/etc/x"])
def test_guest_path_that_cannot_be_is_refused_by_name(shared: Daemon, tmp_path: Path, guest: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(guest)):
        said(shared, "true", volumes=volume(tmp_path, guest))


@pytest.mark.parametrize("turned", [False, True])
def test_volume_below_another_is_refused(shared: Daemon, tmp_path: Path, *, turned: bool) -> None:
    volumes = volume(tmp_path, "/data") + volume("/usr", "/data/inner")
    with pytest.raises(Unsupported, match="/data/inner"):
        shared.create(["true"], volumes=volumes[::-1] if turned else volumes)


@pytest.mark.parametrize("rooted", [False, True])
def test_a_link_that_the_box_left_does_not_lead_a_mount_point_to_the_host(
    shared: Daemon, tmp_path: Path, rootfs: Path, *, rooted: bool
) -> None:
    """bubblewrap makes mount points while it still has the host's root, at /oldroot."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "shared").mkdir()
    where = "/made" if rooted else "/root/made"
    script = f"mv {where} {where}.old && ln -sn /oldroot{tmp_path}/victim {where}; ls -ld {where}"
    spec: dict[str, Any] = {"rootfs_path": str(rootfs), "image": None} if rooted else {}
    box = shared.run(["/bin/sh", "-c", script], volumes=volume(tmp_path / "shared", f"{where}/point"), **spec)
    shared.client.wait(box["box_id"], 20)
    with pytest.raises(InvalidArgument, match="symbolic link 'made'"):
        shared.client.start(box["box_id"])
    assert os.listdir(tmp_path / "victim") == []
    assert "oldroot" in said_by(shared, box["box_id"])


# -- a directory as root


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small root of its own: a few programs of the host with the libraries that they need."""
    root = tmp_path_factory.mktemp("root:fs, with odd characters")
    wanted: set[str] = set()
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None
        wanted.add(program)
        libraries = subprocess.run(["ldd", program], check=False, capture_output=True, text=True).stdout
        wanted |= set(re.findall(r"(/\S+) \(0x", libraries))
    for path in wanted:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    if not (root / "bin").exists():
        (root / "bin").symlink_to("usr/bin")
    (root / "greeting").write_text("from the source\n")
    (root / "doomed").write_text("still here\n")
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def test_rootfs_is_copied_on_write_and_the_source_never_changes(shared: Daemon, rootfs: Path) -> None:
    before = snapshot(rootfs)
    script = "ls /; cat /greeting; echo changed > /greeting; rm /doomed; mkdir -p /new; echo n > /new/file"
    script += "; id -u; echo --; cat /greeting"
    box = shared.run(["/bin/sh", "-c", script], image=None, rootfs_path=str(rootfs))
    shared.client.wait(box["box_id"], 20)
    assert snapshot(rootfs) == before
    upper = shared.box_dir(box["box_id"]) / "upper"
    assert (upper / "greeting").read_text() == "changed\n"
    assert (upper / "new" / "file").read_text() == "n\n"
    shared.client.start(box["box_id"])
    text = said_by(shared, box["box_id"])
    first, between, second = text.split("--\n")
    assert {"greeting", "proc", "dev", "tmp"} <= set(first.split())
    assert "from the source\n0\n" in first
    assert between.startswith("changed\n")
    assert "doomed" not in between.split("changed\n", 1)[1].split(), "what was removed stays removed over a restart"
    assert second == "changed\n"


def test_rootfs_holds_nothing_of_the_host(shared: Daemon, rootfs: Path) -> None:
    text = said(shared, "ls -d /usr/lib/python3* /home /root /var 2>&1; ls /usr", image=None, rootfs_path=str(rootfs))
    assert text.count("No such file or directory") == 4
    assert set(text.splitlines()[4:]) <= {"bin", "lib", "lib64"}


def test_rootfs_is_not_shared_between_boxes(shared: Daemon, rootfs: Path) -> None:
    said(shared, "touch /mark", image=None, rootfs_path=str(rootfs))
    assert "mark" not in said(shared, "ls /", image=None, rootfs_path=str(rootfs)).split()


@pytest.mark.parametrize("path", ["/no/such/dir", "relative", "/etc/passwd"])
def test_missing_rootfs_path_is_refused_by_name(shared: Daemon, path: str) -> None:
    with pytest.raises(InvalidArgument, match=f"rootfs_path '{path}'"):
        shared.client.create({"rootfs_path": path, "cmd": ["true"]})


def test_rootfs_path_that_went_away_fails_the_start_by_name(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    box = shared.create(["true"], image=None, rootfs_path=str(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    with pytest.raises(InvalidArgument, match="gone"):
        shared.client.start(box["box_id"])
    shared.client.remove(box["box_id"])


def test_box_with_a_rootfs_is_removed_without_a_rest(shared: Daemon, rootfs: Path) -> None:
    """overlayfs leaves a directory that not even its owner may enter; a box can leave more of that kind."""
    script = "mkdir -p /a/b/c; touch /a/b/c/d; /bin/ls /a; chmod 0 /a/b /a"
    box = shared.run(["/bin/sh", "-c", script], image=None, rootfs_path=str(rootfs))
    shared.client.wait(box["box_id"], 20)
    (shared.box_dir(box["box_id"]) / "upper" / "a" / "b").chmod(0)
    (shared.box_dir(box["box_id"]) / "upper" / "a").chmod(0)
    shared.client.remove(box["box_id"])
    assert os.listdir(shared.home / "quarantine") == []


# -- the log


def test_log_stays_bounded_while_the_box_floods_it() -> None:
    with Daemon("[logs]\nmax_bytes = 4096\nkeep = 2\n") as daemon:
        box = daemon.start().run(["/bin/sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done"])
        logs = daemon.box_dir(box["box_id"]) / "logs"
        until((logs / "console.log.2").exists, "the log was rotated twice")
        seen = {entry.name for _ in range(300) for entry in logs.iterdir()}
        assert seen <= {"console.log", "console.log.1", "console.log.2"}
        assert daemon.client.stop(box["box_id"])["status"] == "stopped"
        assert max(entry.stat().st_size for entry in logs.iterdir()) <= 4096


def test_a_single_write_beyond_the_bound_is_kept_within_it() -> None:
    with Daemon("[logs]\nmax_bytes = 4096\nkeep = 1\n") as daemon:
        box = daemon.start().run(["/bin/sh", "-c", "printf '%060000d' 7"])
        daemon.client.wait(box["box_id"], 20)
        sizes = {entry.name: entry.stat().st_size for entry in (daemon.box_dir(box["box_id"]) / "logs").iterdir()}
        assert set(sizes) == {"console.log", "console.log.1"}
        assert max(sizes.values()) <= 4096
        assert b"".join(daemon.client.logs(box["box_id"])).endswith(b"07")
