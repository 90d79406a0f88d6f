"""Files into and out of a directory: where they go, what is kept, and that it is all or nothing."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from boxlited.shim.archives import ArchiveRefused, merging, pack, unpack
from boxlited.shim.archives.directories import kind_at
from tests.unit.archive_support import MIX, directory, entry, link, packed, put, refused, tar, target_in, tree

ONE = tar(entry("host.txt", b"new"))


# ---- where it goes


@pytest.mark.parametrize("hint", [None, False])
def test_one_file_gets_the_name_that_was_asked_for_and_its_missing_parents(tmp_path: Path, hint: bool | None) -> None:
    put(ONE, tmp_path / "a/b/new-name.txt", source_is_dir=hint)
    assert (tmp_path / "a/b/new-name.txt").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert list(tree(tmp_path)) == ["a", "a/b", "a/b/new-name.txt"]


@pytest.mark.parametrize("suffix", ["", "/", "/."])
def test_one_file_goes_into_a_directory_that_is_there_or_is_asked_for_with_a_slash(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "there").mkdir()
    put(ONE, f"{tmp_path}/there{suffix}")
    assert (tmp_path / "there/host.txt").read_bytes() == b"new"
    if suffix:
        put(ONE, f"{tmp_path}/fresh{suffix}")
        assert (tmp_path / "fresh/host.txt").read_bytes() == b"new"


def test_a_directory_of_one_file_stays_a_directory_when_its_sender_says_so(tmp_path: Path) -> None:
    put(ONE, tmp_path / "data", source_is_dir=True)
    assert (tmp_path / "data/host.txt").read_bytes() == b"new"


def test_a_link_sent_by_itself_gets_the_name_only_when_its_sender_says_that_it_is_no_directory(tmp_path: Path) -> None:
    put(tar(link("l", "t")), tmp_path / "named", source_is_dir=False)
    put(tar(link("l", "t")), tmp_path / "unnamed")
    assert os.readlink(tmp_path / "named") == "t"
    assert os.readlink(tmp_path / "unnamed/l") == "t"


def test_a_tree_goes_into_a_new_directory_with_what_its_root_entry_says(tmp_path: Path) -> None:
    put(tar(directory("./", 0o750), directory("./sub", 0o500), entry("./sub/f", b"x")), tmp_path / "p/data")
    assert stat.S_IMODE((tmp_path / "p/data").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "p/data/sub").stat().st_mode) == 0o500
    assert (tmp_path / "p/data/sub/f").read_bytes() == b"x"


def test_a_directory_that_is_there_is_filled_and_keeps_its_mode_and_its_other_files(tmp_path: Path) -> None:
    target = tmp_path / "data"
    (target / "sub").mkdir(parents=True, mode=0o711)
    (target / "sub/old").write_text("kept")
    target.chmod(0o1777)
    put(tar(directory("./", 0o700), directory("sub", 0o700), entry("sub/new", b"x"), directory("more", 0o700)), target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o1777
    assert stat.S_IMODE((target / "sub").stat().st_mode) == 0o711
    assert stat.S_IMODE((target / "more").stat().st_mode) == 0o700
    assert sorted(path.name for path in (target / "sub").iterdir()) == ["new", "old"]


def test_links_in_the_path_itself_are_followed_and_a_file_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").symlink_to("run")
    (tmp_path / "run/f").write_text("old")
    put(ONE, tmp_path / "var/f")
    put(ONE, f"{tmp_path}/var/")
    assert (tmp_path / "run/f").read_bytes() == b"new"
    assert (tmp_path / "run/host.txt").read_bytes() == b"new"


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("old")
    (tmp_path / "f").symlink_to("outside")
    (tmp_path / "dangling").symlink_to("nowhere")
    put(ONE, tmp_path / "f")
    put(ONE, tmp_path / "dangling")
    assert (tmp_path / "outside").read_text() == "old"
    assert not (tmp_path / "f").is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("rel/ative", "invalid_argument", "is not absolute"),
        ("/a/../b", "invalid_argument", "holds '..'"),
        ("/a\0b", "invalid_argument", "holds a NUL"),
        ("/" + "x/" * 2048 + "x", "invalid_argument", "longer than 4096 bytes"),
        ("/" + "x" * 256, "invalid_argument", "longer than 255 bytes"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_both_ways(path: str, kind: str, said: str) -> None:
    assert said in refused(kind, ONE, path)
    with pytest.raises(ArchiveRefused, match=said.replace(".", r"\.")):
        packed(path)


@pytest.mark.parametrize("path", ["file/below", "file/", "dangling/below", "dangling/"])
def test_a_path_through_something_else_than_a_directory_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "is not a directory in the box" in refused("invalid_argument", ONE, f"{tmp_path}/{path}")


# ---- what is kept


def test_modes_times_and_links_are_kept_and_owners_and_set_id_bits_are_not(tmp_path: Path) -> None:
    put(
        tar(
            directory("d", 0o2750), entry("d/run", b"#!", mode=0o6755, mtime=1_000_000, uid=12345, gid=12345),
            link("d/l", "run"), link("d/h", "d/run", tarfile.LNKTYPE), link("up", "./d/run"),
        ),
        tmp_path / "t",
    )  # fmt: skip
    run = (tmp_path / "t/d/run").stat()
    assert stat.S_IMODE(run.st_mode) == 0o755
    assert (run.st_mtime, run.st_uid) == (1_000_000, os.geteuid())
    assert stat.S_IMODE((tmp_path / "t/d").stat().st_mode) == 0o750
    assert (tmp_path / "t/d/h").stat().st_ino == run.st_ino
    assert (tmp_path / "t/up").read_bytes() == b"#!"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read(tmp_path: Path, format: int) -> None:
    long = "/".join(["d" * 60] * (3 if format == tarfile.USTAR_FORMAT else 8)) + "/f"
    put(tar(entry(long, b"x"), entry("plain", b"y" * 513), format=format), tmp_path / "t")
    assert (tmp_path / "t" / long).read_bytes() == b"x"
    assert (tmp_path / "t/plain").read_bytes() == b"y" * 513


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/src/\xff\xfe caf\xc3\xa9\n"
    (tmp_path / "src").mkdir()
    with open(odd, "wb") as stream:
        stream.write(b"x")
    put(packed(tmp_path / "src"), tmp_path / "t")
    assert os.listdir(os.fsencode(tmp_path / "t/src")) == [os.path.basename(odd)]


def test_of_two_files_with_one_name_the_later_counts(tmp_path: Path) -> None:
    put(tar(entry("f", b"first"), entry("f", b"second")), tmp_path / "t")
    assert (tmp_path / "t/f").read_bytes() == b"second"


def test_short_reads_make_no_difference(tmp_path: Path) -> None:
    source = io.BytesIO(tar(entry("f", b"x" * 3000), directory("d")))
    unpack(lambda size: source.read(min(size, 7)), str(tmp_path / "t"), overwrite=False)
    assert (tmp_path / "t/f").read_bytes() == b"x" * 3000


def test_an_empty_archive_makes_an_empty_directory(tmp_path: Path) -> None:
    put(tar(), tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []


# ---- all or nothing


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return target_in(tmp_path)


def test_without_overwrite_the_first_conflict_refuses_and_is_named(target: Path) -> None:
    before = tree(target)
    assert "exists in the box" in refused("already_exists", MIX, target, overwrite=False)
    assert "'sub/x'" in refused("already_exists", tar(entry("n", b""), entry("sub/x", b"")), target, overwrite=False)
    assert tree(target) == before
    put(tar(entry("sub/new", b"1")), target, overwrite=False)
    assert (target / "sub/new").read_text() == "1"


def test_with_overwrite_files_are_replaced_and_their_readers_keep_the_old_ones(target: Path) -> None:
    with (target / "a").open() as reader:
        put(MIX, target)
        assert reader.read() == "old"
    assert {path.read_text() for path in target.rglob("*") if path.is_file()} == {"new"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tar(entry("x", b""), entry("sub", b"")), "'sub' is a directory in the box"),
        (tar(entry("x", b""), entry("a/b", b"")), "'a' is a file in the box, and a directory in the archive"),
        (tar(entry("x", b""), entry("out/b", b"")), "'out' is a symbolic link in the box"),
        (tar(entry("x", b""), entry("fifo", b"")), "'fifo' is a FIFO in the box, which is not replaced"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_changed(target: Path, data: bytes, said: str) -> None:
    (target / "out").symlink_to(target.parent)
    os.mkfifo(target / "fifo")
    before = tree(target.parent)
    assert said in refused("already_exists", data, target)
    assert tree(target.parent) == before


@pytest.mark.parametrize("nth", range(1, 9))
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EXDEV, errno.EACCES])
def test_a_failing_rename_undoes_those_before_it(
    target: Path, monkeypatch: pytest.MonkeyPatch, nth: int, number: int
) -> None:
    before, calls = tree(target), iter(range(1, 1000))
    rename = os.rename

    def failing(source: Any, to: Any, **where: Any) -> None:
        if where.get("dst_dir_fd") is not None and next(calls) == nth:
            raise OSError(number, os.strerror(number))
        rename(source, to, **where)

    monkeypatch.setattr(merging.os, "rename", failing)
    if nth == 8:  # the last one: `sub` and `d` take one each, so there are no more than seven
        put(MIX, target)
        return
    kind, said = {
        errno.ENOSPC: ("storage_error", "failed: No space left"),
        errno.EXDEV: ("invalid_argument", "is on another file system"),
        errno.EACCES: ("permission_denied", "failed: Permission denied"),
    }[number]
    assert said in refused(kind, MIX, target)
    assert tree(target) == before


def test_a_full_disk_leaves_the_destination_as_it_was(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = tree(target), os.write
    calls = iter(range(100))

    def full(fd: int, data: bytes) -> int:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:2])  # and what is written in parts is complete

    monkeypatch.setattr("os.write", full)
    message = refused("storage_error", MIX, target)
    monkeypatch.undo()
    assert "unpacking entry 'd/f' failed: No space left" in message
    assert tree(target) == before


@pytest.mark.parametrize("end", range(0, len(MIX.rstrip(b"\0")) + 512, 512))
def test_a_stream_without_its_end_changes_nothing(target: Path, end: int) -> None:
    before = tree(target)
    assert "not a whole tar" in refused("invalid_argument", MIX[:end], target)
    assert "not a whole tar" in refused("invalid_argument", MIX[: end + 100], target)
    assert tree(target) == before


def test_an_error_of_the_caller_comes_out_as_it_is(tmp_path: Path) -> None:
    class Gone(Exception):
        pass

    for error in (Gone(), BrokenPipeError(32, "x"), KeyboardInterrupt()):

        def fail(_: object, error: BaseException = error) -> Any:
            raise error

        with pytest.raises(type(error)):
            unpack(fail, str(tmp_path), overwrite=True)
        with pytest.raises(type(error)):
            pack("/etc/passwd", fail)
    assert tree(tmp_path) == {}


# ---- what the box does meanwhile


def test_directories_swapped_for_links_meanwhile_lead_nowhere(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The box exchanges a directory after the check and before the renames."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("safe")
    check = merging.Merge.check

    def swap(self: merging.Merge) -> None:
        check(self)
        os.rename(target / "sub", target / "moved")
        (target / "sub").symlink_to(outside)

    monkeypatch.setattr(merging.Merge, "check", swap)
    refused("already_exists", MIX, target)
    assert (outside / "x").read_text() == "safe"
    assert [path.name for path in outside.iterdir()] == ["x"]
    assert {(target / name).read_text() for name in ("a", "m", "z", "moved/x")} == {"old"}


def test_a_file_that_appears_after_the_check_is_not_overwritten(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(name: bytes, parent: int) -> os.stat_result | None:
        found = kind_at(name, parent)
        if name == b"fresh" and found is None:
            (target / "fresh").write_text("the box's")
        return found

    monkeypatch.setattr(merging, "kind_at", late)
    monkeypatch.setattr(merging.Merge, "check", lambda self: None)
    refused("already_exists", tar(entry("b", b"1"), entry("fresh", b"2")), target, overwrite=False)
    assert (target / "fresh").read_text() == "the box's"
    assert not (target / "b").exists()
