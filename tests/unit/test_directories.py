"""The home's directories: private, named in one place, removed by rename, and never through a link."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxlited.errors import InvalidArgument, ResourceExhausted, StorageError
from boxlited.model import BoxID, BoxSpec
from boxlited.supervisor.directories import MAX_CONFIG_BYTES, BoxFile, Directories
from boxlited.supervisor.layout import BoxLayout, HomeLayout
from tests.unit.durable import watch_durability
from tests.unit.limits import no_file_space, no_free_descriptor

ID = BoxID.parse("a" * 16)
OTHER = BoxID.parse("b" * 16)
DAY = 86400.0


@pytest.fixture
def home(tmp_path: Path) -> HomeLayout:
    layout = HomeLayout(tmp_path / "home")
    Directories(layout).prepare_home()
    return layout


@pytest.fixture
def directories(home: HomeLayout) -> Directories:
    return Directories(home)


def config(box_id: str = ID, **values: object) -> BoxFile:
    return msgspec.structs.replace(
        BoxFile(box_id=str(box_id), name="web", created_at=1.5, spec=BoxSpec(image="host")), **values
    )


def mode(path: Path | str) -> int:
    return os.lstat(path).st_mode & 0o7777


def everything(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


# ---- names


def test_every_path_of_the_home_lies_in_it_and_has_a_name_of_its_own(home: HomeLayout) -> None:
    box = home.box(ID)
    paths = [getattr(home, name) for name in dir(HomeLayout) if isinstance(getattr(HomeLayout, name), property)]
    inside = [getattr(box, name) for name in dir(BoxLayout) if isinstance(getattr(BoxLayout, name), property)]
    flat = [Path(path) for path in inside if not isinstance(path, tuple)]
    assert all(path.is_relative_to(home.home) for path in paths)
    assert all(path.is_relative_to(box.directory) and path != box.directory for path in flat)
    assert len({*paths, *flat}) == len(paths) + len(flat)
    assert (box.pid_file.name, box.exit_file.name, box.exit_previous.name) == ("shim.pid", "exit", "exit.previous")


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=255))
def test_a_quarantined_name_stays_in_quarantine_and_fits_whatever_it_was(name: str) -> None:
    path = HomeLayout(Path("/h")).quarantined(os.fsdecode(name.encode("utf-8", "replace")[:255]), "f" * 16)
    assert path.parent == Path("/h/quarantine")
    assert path.name.startswith("kept-ffff")
    assert len(os.fsencode(path.name)) <= 255


# ---- made


def test_config_directory_and_parent_are_durable_before_a_create_returns(
    home: HomeLayout, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = watch_durability(monkeypatch)
    assert directories.create_all([config(), config(OTHER)]) == [None, None]
    size = home.box(ID).config.stat().st_size
    entries = len(list(home.box(ID).directory.iterdir()))
    each = [[f"sync box.json:{size}", f"sync {box_id}:{entries}"] for box_id in (ID, OTHER)]
    assert passed == [*each[0], *each[1], "sync boxes:2"]


def test_the_homes_directories_are_private_and_made_private_again(tmp_path: Path, home: HomeLayout) -> None:
    assert [mode(path) for path in (home.home, home.boxes_dir, home.quarantine_dir)] == [0o700] * 3
    home.boxes_dir.chmod(0o777)
    home.home.chmod(0o755)
    Directories(home).prepare_home()
    assert mode(home.boxes_dir) == 0o700
    assert mode(home.home) == 0o755  # whoever made it may let others pass: nothing in it is readable
    nested = HomeLayout(tmp_path / "a/b/c")
    Directories(nested).prepare_home()
    assert mode(nested.home) == 0o700


def test_a_box_is_made_whole_and_private(home: HomeLayout, directories: Directories) -> None:
    assert directories.create_all([config(), config(OTHER)]) == [None, None]
    box = home.box(ID)
    assert everything(box.directory) == ["box.json", "logs", "sockets", "tmp", "upper", "work"]
    assert mode(box.directory) == 0o700
    assert mode(box.config) == 0o600
    assert {mode(path) for path in box.subdirectories} == {0o700}
    assert directories.read_config(box) == config()
    assert sorted(directories.names()) == [ID, OTHER]


def test_of_a_box_that_could_not_be_made_nothing_is_left_and_the_others_are(
    home: HomeLayout, directories: Directories
) -> None:
    huge = config("c" * 16, spec=BoxSpec(env={"A": "x" * 20_000}))
    with no_file_space(10_000):
        errors = directories.create_all([config(), huge, config(OTHER)])
    assert [type(error) for error in errors] == [type(None), StorageError, type(None)]
    assert sorted(directories.names()) == [ID, OTHER]


def test_what_lies_in_the_place_of_a_new_box_is_left_as_it_was(home: HomeLayout, directories: Directories) -> None:
    directories.create_all([config()])
    home.box(ID).console_log.write_bytes(b"mine")
    home.boxes_dir.joinpath(OTHER).symlink_to("nowhere")
    before = everything(home.home)
    errors = directories.create_all([config(name="second"), config(OTHER)])
    assert ["File exists" in str(error) for error in errors] == [True, True]
    assert everything(home.home) == before
    assert directories.read_config(home.box(ID)) == config()


@pytest.mark.parametrize("bad", ["", "..", "../../x", "A" * 16, "a" * 17])
def test_no_directory_is_made_for_what_is_no_id(home: HomeLayout, directories: Directories, bad: str) -> None:
    with pytest.raises(InvalidArgument):
        directories.create_all([config(bad)])
    assert directories.names() == []


def test_without_descriptors_or_a_home_the_create_fails_in_words(home: HomeLayout, directories: Directories) -> None:
    with no_free_descriptor():
        (error,) = directories.create_all([config()])
    assert isinstance(error, ResourceExhausted)
    assert directories.names() == []
    home.boxes_dir.rmdir()
    (error,) = directories.create_all([config()])
    assert "No such file" in str(error)


def test_what_is_missing_for_a_run_is_made_again(home: HomeLayout, directories: Directories) -> None:
    directories.create_all([config()])
    home.box(ID).logs_dir.rmdir()
    directories.prepare_run(home.box(ID))
    assert mode(home.box(ID).logs_dir) == 0o700


@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "file"])
def test_a_link_or_file_in_the_place_of_a_directory_is_refused(
    home: HomeLayout, directories: Directories, tmp_path: Path, target: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").touch()
    directories.create_all([config()])
    home.box(ID).logs_dir.rmdir()
    home.box(ID).logs_dir.symlink_to(tmp_path / target)
    with pytest.raises(StorageError, match="Not a directory"):
        directories.prepare_run(home.box(ID))


# ---- box.json


def put(home: HomeLayout, content: bytes) -> BoxLayout:
    box = home.box(ID)
    box.directory.mkdir(exist_ok=True)
    box.config.write_bytes(content)
    return box


GOOD = msgspec.json.encode(config())


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 4096, b"\xff", GOOD[:-2], b"[]", b"{}", b"[" * 100_000, GOOD.replace(b'"web"', b'"\xff\xfe"'),
        GOOD.replace(b"aaaa", b"bbbb"), GOOD.replace(b'"web"', b'"../x"'), GOOD.replace(b'"web"', b'"a\\u001b[31m"'),
        GOOD.replace(b'"web"', b'"%s"' % (b"x" * 64)), GOOD.replace(b'"web"', b"7"), GOOD.replace(b'"sandbox"', b"[]"),
        GOOD.replace(b'"version":1', b'"later":' + b"[" * 100_000), GOOD + b" " * MAX_CONFIG_BYTES,
    ],
)  # fmt: skip
def test_garbage_and_configs_of_others_are_no_config(
    home: HomeLayout, directories: Directories, content: bytes
) -> None:
    assert directories.read_config(put(home, content)) is None


def test_a_config_of_a_newer_version_is_read(home: HomeLayout, directories: Directories) -> None:
    newer = GOOD.replace(b'"version":1', b'"version":2,"later":{"a":1}')
    found = directories.read_config(put(home, newer))
    assert found == config(version=2)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=3))))
def test_any_bytes_are_a_config_or_none(home: HomeLayout, torn: bytes | tuple[int, bytes]) -> None:
    content = torn if isinstance(torn, bytes) else GOOD[: torn[0]] + torn[1] + GOOD[torn[0] + len(torn[1]) :]
    found = Directories(home).read_config(put(home, content))
    assert found is None or found.box_id == ID


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(path.parent):
        sock.bind(path.name)  # the whole path may be too long for an address


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, as_socket, lambda path: path.symlink_to("real"), lambda path: path.symlink_to(path)]
)
def test_a_config_that_is_no_plain_file_is_none(
    home: HomeLayout, directories: Directories, make: Callable[[Path], None]
) -> None:
    box = put(home, GOOD)
    box.config.rename(box.directory / "real")
    make(box.config)
    assert directories.read_config(box) is None


def test_a_config_that_could_not_be_looked_at_is_not_absent(home: HomeLayout, directories: Directories) -> None:
    box = put(home, GOOD)
    with no_free_descriptor(), pytest.raises(ResourceExhausted):
        directories.read_config(box)
