"""`<home>/etc`: only what everyone may read, in step with the host, replaced and never edited in place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boxlited.supervisor import hostetc


@pytest.fixture
def host(tmp_path: Path) -> Path:
    source = tmp_path / "host"
    (source / "ssl/private").mkdir(parents=True)
    (source / "ssl/certs").mkdir()
    (source / "alternatives").mkdir()
    for path in (source, *source.rglob("*")):
        path.chmod(0o755)
    put(source / "passwd", "root:x:0:0::/root:/bin/sh\n")
    put(source / "ssl/certs/ca.crt", "public")
    put(source / "ssl/private/host.key", "secret", 0o600)
    put(source / "ssl/half-hidden.key", "secret", 0o640)
    put(source / "shadow", "root:secret", 0o640)
    (source / "ssl/private").chmod(0o700)
    (source / "alternatives/awk").symlink_to("/usr/bin/mawk")
    return source


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def synced(host: Path) -> Path:
    target = host.parent / "etc"
    hostetc.sync(target, host)
    return target


def test_what_everyone_may_read_is_there_and_readable(host: Path) -> None:
    before = os.umask(0o077)
    try:
        target = synced(host)
    finally:
        os.umask(before)
    assert (target / "passwd").read_text().startswith("root:")
    assert (target / "ssl/certs/ca.crt").read_text() == "public"
    assert os.readlink(target / "alternatives/awk") == "/usr/bin/mawk"
    assert (target / "passwd").stat().st_mode & 0o777 == 0o644
    assert (target / "ssl/certs").stat().st_mode & 0o777 == 0o755


def test_what_only_some_may_read_stays_with_the_host(host: Path) -> None:
    """A box's uid 0 is the daemon's own user on the host: modes would not keep it out."""
    target = synced(host)
    found = [path.name for path in target.rglob("*")]
    assert not {"private", "host.key", "half-hidden.key", "shadow"} & set(found)


def test_a_secret_that_was_public_before_goes(host: Path) -> None:
    target = synced(host)
    (host / "ssl/certs/ca.crt").chmod(0o600)
    assert (synced(host) / "ssl/certs/ca.crt").exists() is False
    assert target.is_dir()


def test_changes_come_by_rename_and_only_where_something_changed(host: Path) -> None:
    target = synced(host)
    passwd, ca = target / "passwd", target / "ssl/certs/ca.crt"
    old = passwd.stat().st_ino, ca.stat().st_ino
    with passwd.open() as kept_open:
        put(host / "passwd", "root:x:0:0::/root:/bin/bash\n")
        synced(host)
        assert kept_open.read().endswith("/bin/sh\n")
    assert passwd.read_text().endswith("/bin/bash\n")
    assert passwd.stat().st_ino != old[0]
    assert ca.stat().st_ino == old[1]


def test_what_went_from_the_host_goes(host: Path) -> None:
    target = synced(host)
    (host / "ssl/certs/ca.crt").unlink()
    (host / "passwd").unlink()
    put(target / "stray", "x")
    put(target / "ssl/stray", "x")
    synced(host)
    assert not (target / "passwd").exists()
    assert sorted(path.name for path in target.rglob("*")) == [
        "alternatives", "awk", "certs", "hosts", "resolv.conf", "ssl",
    ]  # fmt: skip


@pytest.mark.parametrize("swap", ["file to directory", "directory to file", "link to file", "file to link"])
def test_a_name_may_change_its_kind(host: Path, swap: str) -> None:
    name = host / "group"
    kinds = {
        "file": lambda: put(name, "users:x:100:\n"),
        "directory": lambda: name.mkdir(mode=0o755),
        "link": lambda: name.symlink_to("passwd"),
    }
    first, _, then = swap.partition(" to ")
    kinds[first]()
    target = synced(host)
    name.rmdir() if first == "directory" else name.unlink()
    kinds[then]()
    synced(host)
    copy = target / "group"
    assert {"file": copy.is_file() and not copy.is_symlink(), "directory": copy.is_dir(), "link": copy.is_symlink()}[
        then
    ]


def test_special_and_huge_files_are_left_out_and_do_not_block(host: Path) -> None:
    os.mkfifo(host / "services", 0o644)
    with (host / "protocols").open("wb") as file:
        file.truncate(hostetc.MAX_FILE_BYTES + 1)
    (host / "protocols").chmod(0o644)
    target = synced(host)
    assert not (target / "services").exists()
    assert not (target / "protocols").exists()


def test_a_link_in_the_place_of_the_target_is_not_followed(host: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "etc").symlink_to(victim)
    target = synced(host)
    assert target.is_dir()
    assert not target.is_symlink()
    assert list(victim.iterdir()) == []


def test_hosts_knows_localhost(host: Path) -> None:
    target = synced(host)
    assert "127.0.0.1\tlocalhost" in (target / "hosts").read_text()
    assert (target / "resolv.conf").read_bytes() == b""
