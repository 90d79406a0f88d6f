"""Hostile archives: refused by name, and nothing outside the destination is ever touched."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from boxlited.shim.archives import ArchiveRefused, tarstream
from tests.unit.archive_support import directory, entry, link, packed, put, refused, small, tar, tree

EVERY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HARD = tarfile.LNKTYPE


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A destination with files of its own beside a tree that must not change."""
    (tmp_path / "sentinel/deep").mkdir(parents=True)
    (tmp_path / "sentinel/deep/secret").write_text("secret")
    (tmp_path / "x").write_text("beside")
    (tmp_path / "t/d").mkdir(parents=True)
    (tmp_path / "t/d/f").write_text("inside")
    (tmp_path / "t/out").symlink_to("../sentinel")
    (tmp_path / "t/file-out").symlink_to("../sentinel/deep/secret")
    return tmp_path


def raw(name: bytes = b"f", kind: bytes = b"0", size: bytes = b"00000000000\0", magic: bytes = b"ustar\x0000") -> bytes:
    """One header block with a right checksum, whatever is in it."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108], block[124:136], block[136:148] = b"0000644\0", size, b"00000000000\0"
    block[156:157], block[257:265] = kind, magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return raw(b"pax", kind, b"%011o\0" % len(data)) + data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


END = bytes(1024)

NAMED = [
    (tar(entry("/etc/passwd", b"x")), "'/etc/passwd' is absolute"),
    (tar(entry("a/../../x", b"x")), "'a/../../x' holds '..'"),
    (tar(entry("..", b"x")), "'..' holds '..'"),
    (tar(directory("../d")), "'../d/' holds '..'"),
    (tar(link("l", "/etc"), entry("l/passwd", b"x")), "'l' leads to the absolute path '/etc'"),
    (tar(link("l", "../sentinel")), "'l' leads out of the archive, to '../sentinel'"),
    (tar(link("a/l", "../../x")), "'a/l' leads out of the archive"),
    (tar(link("s", "."), link("l", "s/../x")), "'..' is taken only at the beginning"),
    (tar(link("l", "d"), entry("l/f", b"x")), "'l/f' is below something that is no directory"),
    (tar(link("l", "d"), directory("l")), "'l/' is below something that is no directory"),
    (tar(link("l", "d"), entry("l", b"x")), "'l' comes twice"),
    (tar(entry("f", b"x"), directory("f")), "'f/' is below something"),
    (tar(entry("f", b"x"), directory("f/g")), "'f/g/' is below something"),
    (tar(directory("f"), entry("f", b"x")), "'f' comes twice"),
    (tar(entry("f", b"x"), link("f", "g")), "'f' comes twice"),
    (tar(link("h", "/etc/passwd", HARD)), "'h' leads to '/etc/passwd', which is no earlier file"),
    (tar(link("h", "../x", HARD)), "'h' leads to '../x', which is no earlier file"),
    (tar(link("h", "d/f", HARD)), "'h' leads to 'd/f', which is no earlier file"),
    (tar(link("h", "later", HARD), entry("later", b"x")), "'h' leads to 'later', which is no earlier file"),
    (tar(link("l", "x"), link("h", "l", HARD)), "'h' leads to 'l', which is no earlier file"),
    (tar(directory("q"), link("h", "q", HARD)), "'h' leads to 'q', which is no earlier file"),
    (tar(entry("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), "'dev' is a character device"),
    (tar(entry("dev", type=tarfile.BLKTYPE)), "'dev' is a block device"),
    (tar(entry("pipe", type=tarfile.FIFOTYPE)), "'pipe' is a FIFO"),
    (tar(entry("s", type=b"S")), "'s' is a sparse file"),
    (tar(entry("u", type=b"Z")), "'u' has the unknown type 'Z'"),
    (tar(entry("n" * 256, b"")), "one of its names than 255"),
    (tar(entry("n/" * 2048 + "n", b"")), "is longer than 4096 bytes"),
    (tar(entry("n/" * 10 + "n", b"")), "is more than 10 directories deep"),
    (tar(entry(".boxlited-put-1/f", b"")), "begins with .boxlited-put-, which is ours"),
    (raw(b"d", b"5", b"00000000010\0") + bytes(512) + END, "'d' is a directory with content"),
    (raw(b"l", b"2", b"00000000010\0") + bytes(512) + END, "'l' is a symbolic link with content"),
    (raw(b"f/") + END, "'f/' is a file with the name of a directory"),
    (raw(b"") + END, "has no name"),
    (raw(b"./", b"2") + END, "is a symbolic link with the name of a directory"),
    (raw(b"f", size=b"0000000zz00\0") + END, "size is no number"),
    (raw(b"f", size=b"\xff" * 12) + END, "the size of entry 'f' is no number"),
    (raw(b"f", size=b"\x80" + b"\xff" * 11) + END, "its end marker is missing"),
    (raw(b"x", b"x", b"\x80" + b"\x7f" * 11), "an extended header is larger"),
    (raw(b"L", b"L", b"77777777777\0"), "an extended header is larger"),
    (pax(record(b"path", b"/abs")) + raw() + END, "'/abs' is absolute"),
    (pax(record(b"path", b"a\0b")) + raw() + END, "holds a NUL"),
    (pax(record(b"size", b"-1")) + raw() + END, "the size of entry 'f' is no number"),
    (pax(record(b"mtime", b"nan")) + raw() + END, "the time of entry 'f' is no number"),
    (pax(record(b"GNU.sparse.size", b"9")) + raw() + END, "holds sparse files"),
    (pax(record(b"path", b"g"), kind=b"g") + raw() + END, "a global header sets the path"),
    (pax(b"99999999 path=x\n") + raw() + END, "a pax record has a wrong length"),
    (pax(b"4 x\n") + raw() + END, "a pax record has no key"),
    (pax(record(b"path", b"g")) + END, "it ends behind an extended header"),
    (raw() + END + raw() + END, "it goes on behind its end marker"),
    (raw() + END + b"x", "it goes on behind its end marker"),
    (raw(size=b"00000000001\0") + b"x" + b"y" * 511 + END, "what fills up a block is not zero"),
    (b"\x1f\x8b" + bytes(1000), "a compressed archive must be unpacked first"),
    (b"not a tar at all" * 100, "is no number"),
    (b"", "it is empty"),
]


@pytest.mark.parametrize(("data", "said"), NAMED, ids=[said for _, said in NAMED])
@pytest.mark.parametrize("name", ["t", "fresh"])
def test_what_is_refused_is_named_and_nothing_is_changed(place: Path, data: bytes, said: str, name: str) -> None:
    before = tree(place)
    assert said in refused("invalid_argument", data, place / name, limits=small())
    assert tree(place) == before


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tar(*(entry(f"f{n}", b"") for n in range(101))), "more than 100 entries"),
        (pax() * 101 + raw() + END, "more than 100 entries"),
        (tar(entry("f", bytes(1 << 20))), "larger than 1048576 bytes"),
        (raw() + END + bytes(1 << 20), "larger than 1048576 bytes"),
    ],
)
def test_an_archive_beyond_the_limits_is_refused(place: Path, data: bytes, said: str) -> None:
    before = tree(place)
    assert said in refused("resource_exhausted", data, place / "t", limits=small())
    assert tree(place) == before


@pytest.mark.parametrize(("name", "kind"), [("out/deep/secret", "already_exists"), ("out/new", "already_exists")])
def test_no_entry_goes_through_a_link_of_the_box(place: Path, name: str, kind: str) -> None:
    before = tree(place)
    assert "'out' is a symbolic link in the box" in refused(kind, tar(entry(name, b"x")), place / "t")
    assert tree(place) == before


def test_a_file_in_the_place_of_a_link_of_the_box_replaces_the_link(place: Path) -> None:
    put(tar(entry("file-out", b"new")), place / "t")
    assert (place / "sentinel/deep/secret").read_text() == "secret"
    assert not (place / "t/file-out").is_symlink()


@pytest.mark.parametrize("target", ["d", "./d/f", "../t2/f", "a/b/c", "dangling", ".."])
def test_links_that_stay_inside_are_taken(place: Path, target: str) -> None:
    put(tar(link("one/two/l", target)), place / "t")
    assert os.readlink(place / "t/one/two/l") == target


def test_control_characters_of_a_name_do_not_reach_the_message(place: Path) -> None:
    message = refused("invalid_argument", tar(entry("/\x1b[2J\n\u202e" + "x" * 3000, b"")), place / "t")
    assert len(message) < 300


# ---- properties

name = st.sampled_from(["a", "b", "c", ".", "..", "d", "out", "file-out", "t", "x", "", "é", "n" * 300])
path = st.lists(name, max_size=4).map("/".join) | st.sampled_from(
    ["/etc/boxlited-test", "../x", "../sentinel/deep/secret"]
)
kind = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, HARD, tarfile.FIFOTYPE, b"S", b"\0", b"7"])


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Archives of any shape, sometimes damaged, cut or glued."""
    entries = []
    for _ in range(draw(st.integers(0, 8))):
        member = draw(kind)
        content = draw(st.binary(max_size=40)) if member in (tarfile.REGTYPE, b"\0", b"7") else b""
        member_name = draw(path).encode("utf-8", "surrogateescape").decode("utf-8")
        entries.append(entry(member_name, content, type=member, linkname=draw(path), mode=draw(st.integers(0, 0o7777))))
    data = bytearray(tar(*entries, format=draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


@EVERY
@given(
    hostile(),
    st.booleans(),
    st.sampled_from(["t", "fresh", "t/new/deep", "t/d/f", "t/"]),
    st.sampled_from([None, True, False]),
)
@example(tar(link("a", "."), link("b", "a/../x"), entry("b", b"!")), True, "t", None)
@example(tar(link("a", ".."), entry("a/x", b"!")), True, "t", None)
@example(tar(directory("a"), link("a/l", ".."), link("a/m", "l/x"), link("h", "a/m/x", HARD)), True, "t", True)
def test_no_archive_touches_anything_outside_or_leaves_half_of_itself(
    tmp_path: Path, data: bytes, overwrite: bool, target: str, hint: bool | None
) -> None:
    base = tmp_path / os.urandom(8).hex()
    (base / "sentinel/deep").mkdir(parents=True)
    (base / "sentinel/deep/secret").write_text("secret")
    (base / "x").write_text("beside")
    (base / "t/d").mkdir(parents=True)
    (base / "t/d/f").write_text("inside")
    (base / "t/out").symlink_to("../sentinel")
    (base / "t/file-out").symlink_to("../sentinel/deep/secret")
    before = tree(base)
    try:
        put(data, f"{base}/{target}", overwrite=overwrite, source_is_dir=hint, limits=small())
    except ArchiveRefused:
        assert tree(base) == before
        return
    after = tree(base)
    inside = tuple(name for name in after if f"{name}/".startswith(target.rstrip("/") + "/"))
    made = {"t/new"} if target == "t/new/deep" else set()
    assert {name: after[name] for name in after if name not in inside and name not in made} == {
        name: value for name, value in before.items() if name not in inside
    }
    for name in inside:
        if (base / name).is_symlink() and after[name] != before.get(name):
            assert os.path.realpath(base / name, strict=False).startswith(
                (str(base / target.rstrip("/")), str(base / "sentinel"))  # through a link that the box had before
            )
    assert not Path("/etc/boxlited-test").exists()


@EVERY
@given(st.binary(max_size=3000), st.booleans())
def test_the_reader_ends_with_a_refusal_or_with_the_stream(data: bytes, framed: bool) -> None:
    blob = raw() + data + END if framed else data
    reader = tarstream.TarReader(io.BytesIO(blob).read, small())
    try:
        for member in reader:
            assert sum(map(len, reader.content())) == member.size
    except ArchiveRefused:
        pass


tree_name = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda text: text not in (".", "..") and len(text.encode()) <= 255
)
leaf = st.binary(max_size=1500) | st.sampled_from([None, "link"])
trees = st.recursive(
    st.dictionaries(tree_name, leaf, max_size=4),
    lambda below: st.dictionaries(tree_name, below | leaf, max_size=4),
    max_leaves=12,
)
modes = st.sampled_from([0o755, 0o700, 0o500, 0o644, 0o600, 0o444, 0o777])


def grow(root: Path, content: object, data: st.DataObject) -> None:
    if isinstance(content, dict):
        root.mkdir()
        for own, below in content.items():
            grow(root / own, below, data)
        root.chmod(data.draw(modes) | 0o500)
        os.utime(root, (1e9, 1e9))
    elif content == "link":
        root.symlink_to(data.draw(st.sampled_from([".", "x", "./a/b"])))
    else:
        root.write_bytes(content if isinstance(content, bytes) else b"")
        root.chmod(data.draw(modes))
        os.utime(root, (1e9, 1e9))


@settings(EVERY, max_examples=100)
@given(trees, st.booleans(), st.data())
def test_every_tree_comes_back_as_it_was(
    tmp_path: Path, content: dict[str, object], flat: bool, data: st.DataObject
) -> None:
    base = tmp_path / os.urandom(8).hex()
    base.mkdir()
    grow(base / "src", content, data)
    put(packed(f"{base}/src{'/.' if flat else ''}"), base / "to", overwrite=False, source_is_dir=True)
    back = base / "to" if flat else base / "to/src"
    want, got = tree(base / "src"), tree(back)
    assert {k: v[:3] for k, v in got.items()} == {k: v[:3] for k, v in want.items()}
    assert back.stat().st_mode == (base / "src").stat().st_mode
    assert all(path.lstat().st_mtime == 1e9 for path in back.rglob("*") if not path.is_symlink())
