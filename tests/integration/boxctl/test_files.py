"""Promises of boxctl cp and top, against a small real daemon."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.integration.boxctl.programs import DB, WEB, boxctl, on_terminal
from tests.unit import fake_daemon
from tests.unit.fake_daemon import FakeDaemon, problem


@pytest.fixture
def fake(fake: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    monkeypatch.chdir(tmp_path)
    fake.add(WEB, "web", started_at="2025-01-01T00:00:00Z")
    return fake


# ---- cp


def test_a_file_goes_in_and_comes_out(fake: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    assert boxctl("cp", "a", "web:/tmp/") == (2, b"", b"boxctl: /tmp/: no such directory; make it first, or leave out"
                                                      b" the last slash\n")  # fmt: skip
    assert boxctl("cp", "a", "webaa:/new") == (0, b"", b"")
    assert (fake.files.of(WEB) / "new").read_text() == "A"
    assert boxctl("cp", "web:new", "./b") == (0, b"", b"")
    assert (tmp_path / "b").read_text() == "A"


def test_a_tar_stream_goes_in_and_comes_out(fake: FakeDaemon) -> None:
    inside = fake.files.of(WEB)
    (inside / "there").mkdir()
    (inside / "there" / "x").write_text("X")
    code, archive, err = boxctl("cp", "web:/there", "-")
    assert (code, err) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getnames() == ["there", "there/x"]
    (inside / "other").mkdir()
    assert boxctl("cp", "-", "web:/other", stdin=archive)[0] == 0
    assert (inside / "other" / "there" / "x").read_text() == "X"
    code, _, err = boxctl("cp", "-", "web:/nowhere", stdin=archive)
    assert (code, b"is no directory" in err) == (2, True)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a", "b", b"BOX:PATH"),
        ("web:/a", "db:/b", b"only one side"),
        ("web:", "b", b"expected BOX:PATH"),
        (":x", "b", b"expected BOX:PATH"),
        ("nothing", "web:/b", b"nothing: no such file"),
        ("./web:x", "b", b"BOX:PATH"),
        ("-", "-", b"BOX:PATH"),
    ],
)
def test_wrong_use_of_cp_says_what_is_meant(fake: FakeDaemon, source: str, target: str, words: bytes) -> None:
    code, _, err = boxctl("cp", source, target)
    assert (code, words in err) == (2, True), err


def test_a_file_with_a_colon_is_copied_by_its_path(fake: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "web:x").write_text("X")
    assert boxctl("cp", "./web:x", "web:/x")[0] == 0
    assert (fake.files.of(WEB) / "x").read_text() == "X"


def test_a_box_that_does_not_run_says_what_to_do(fake: FakeDaemon, tmp_path: Path) -> None:
    fake.files.refusal = problem(409, "stopped", "box web is stopped")
    (tmp_path / "a").write_text("A")
    for arguments in (("a", "web:/a"), ("web:/a", "b")):
        code, _, err = boxctl("cp", *arguments)
        assert (code, b"boxctl start" in err) == (1, True)
    assert boxctl("cp", "nobody:/a", "b")[0] == 3


def test_an_archive_does_not_go_to_a_terminal(fake: FakeDaemon) -> None:
    for arguments in (["web:/", "-"], ["-", "web:/"]):
        with on_terminal("cp", *arguments) as terminal:
            assert terminal.wait() == 2
            terminal.expect(b"is a terminal")


# ---- top


def test_top_shows_the_busiest_first_and_once_where_there_is_no_terminal(fake: FakeDaemon) -> None:
    fake.add(DB, "db")
    for box_id, cpu in ((WEB, 1.5), (DB, 99.0)):
        use = {"cpu_percent": cpu, "memory_bytes": 3 * 1024**2, "processes": 4}
        fake.replies["GET", f"/v1/boxes/{box_id}/metrics"] = (200, use)
    code, out, _ = boxctl("top")
    lines = out.decode().splitlines()
    assert code == 0
    assert lines[0] == "2 boxes run   cpu 100.5%   memory 6.0MiB"
    assert [line.split()[0] for line in lines[1:]] == ["NAME", "db", "web"]
    assert lines[2].split()[:6] == ["db", DB[:8], "99.0%", "3.0MiB", "-", "4"]
    listed = json.loads(boxctl("top", "--format", "json")[1])
    assert [(box["name"], box["cpu_percent"]) for box in listed] == [("db", 99.0), ("web", 1.5)]
    assert [line.split()[0] for line in boxctl("top", "web")[1].decode().splitlines()] == ["1", "NAME", "web"]


def test_top_is_live_on_a_terminal_and_ctrl_c_ends_it(fake: FakeDaemon) -> None:
    looks = [0]

    def metrics(_: object) -> fake_daemon.Answer:
        looks[0] += 1
        return 200, {"cpu_percent": float(looks[0]), "memory_bytes": 1024, "processes": 1}

    fake.replies["GET", f"/v1/boxes/{WEB}/metrics"] = metrics
    with on_terminal("top", "--interval", "0.1", cols=60, rows=10) as terminal:
        terminal.expect(b"web")
        terminal.expect(b"3.0%")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        assert b"\x1b[?1049l" in terminal.shown  # the screen from before is back
        assert terminal.is_as_before()
