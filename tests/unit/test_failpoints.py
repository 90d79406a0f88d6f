"""Named failpoints: nothing by default, exactly what was asked for otherwise, and no misspelling passes."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import boxlited
from boxlited import failpoints
from boxlited.failpoints import hit, load


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    load("")
    yield
    load("")


def hits(name: str, times: int) -> list[int | None]:
    """The errno of each hit, None where it passed."""
    seen: list[int | None] = []
    for _ in range(times):
        try:
            hit(name)
            seen.append(None)
        except OSError as error:
            seen.append(error.errno)
    return seen


def test_nothing_happens_by_default() -> None:
    assert "BOXLITED_FAILPOINTS" not in os.environ
    assert hits("start.after_intent", 3) == [None, None, None]
    assert not failpoints._hits  # not even counted


def test_an_error_comes_once_and_only_at_its_point() -> None:
    load("a.b=error:28")
    assert hits("a.c", 2) == [None, None]
    assert hits("a.b", 3) == [28, None, None]


def test_the_hit_is_counted_from_when_the_points_were_loaded() -> None:
    load("a.b=error:5@3, c.d=error:12@1,")
    assert hits("a.b", 4) == [None, None, 5, None]
    assert hits("c.d", 2) == [12, None]
    load("a.b=error:5@3")
    assert hits("a.b", 4) == [None, None, 5, None]


def test_a_file_of_points_is_heard_from_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "points"
    file.write_text("")
    monkeypatch.setattr(failpoints, "_file", "")
    monkeypatch.setattr(failpoints, "_file_text", "")
    failpoints._begin(f"@{file}")
    assert hits("a.b", 2) == [None, None]
    file.write_text("a.b=error:5@2")
    assert hits("a.b", 3) == [None, 5, None]
    file.write_text("a.b=error:28")
    assert hits("a.b", 2) == [28, None]
    file.write_text("a.b=misspelt")
    with pytest.raises(ValueError, match="is not NAME="):
        hit("a.b")


def test_an_error_reads_as_the_kernels_own() -> None:
    load("a=error:28")
    with pytest.raises(OSError, match="No space left on device"):
        hit("a")


def test_kill_is_sigkill_of_this_process_and_exit_skips_every_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: ended.append(arguments))
    monkeypatch.setattr(os, "_exit", lambda code: ended.append((code,)))
    load("a=kill,b=exit")
    hit("a")
    hit("b")
    assert ended == [(os.getpid(), 9), (99,)]


def test_a_pause_ends_when_its_fifo_was_opened_and_closed(tmp_path: Path) -> None:
    fifo = tmp_path / "gate@home"
    os.mkfifo(fifo)
    load(f"a=pause:{fifo}")
    paused = threading.Thread(target=hit, args=("a",), daemon=True)
    paused.start()
    with open(fifo, "wb"):  # returns when the other end is there
        paused.join(timeout=0.05)  # a pause that did not hold would end at once
        assert paused.is_alive()
    paused.join(timeout=10)
    assert not paused.is_alive()


@pytest.mark.parametrize(
    "text",
    [
        "a", "=kill", "a=", "a=kil", "a=kill:9", "a=exit:1", "a=error", "a=error:", "a=error:ENOSPC", "a=error:-1",
        "a=error:²", "a=pause", "a=pause:", "a=kill@0", "a=kill@x", "a=kill@-1", "a=kill@", "a=error:28@", "a=KILL",
        "a=kill,b", "a=kill b=kill", "a:kill",
    ],
)  # fmt: skip
def test_a_misspelt_failpoint_is_refused_and_the_others_stay(text: str) -> None:
    load("good=error:1")
    with pytest.raises(ValueError, match="is not NAME="):
        load(text)
    assert hits("good", 1) == [1]


@given(st.text(max_size=30))
def test_any_text_loads_or_is_a_value_error(text: str) -> None:
    try:
        load(text)
    except ValueError:
        return
    finally:
        load("")


def test_every_point_of_the_code_has_a_name_of_its_own() -> None:
    found: Counter[str] = Counter()
    for file in Path(boxlited.__file__).parent.rglob("*.py"):
        found.update(re.findall(r"""\bhit\("([^"]*)"\)""", file.read_text()))
    assert len(found) > 15
    assert [name for name, count in found.items() if count > 1 or not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []
