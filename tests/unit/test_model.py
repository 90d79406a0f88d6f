"""Ids and names: minted in one place, parsed in one place, never repaired."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.errors import InvalidArgument
from boxlited.model import BoxID, BoxSpec, check_name, mint_run_id

BAD = [
    "", "..", ".", "/", "a/b", "\0", "a" * 15, "a" * 17, "x" * 300, "A" * 16, "аbcdefghijklmnop", "a" * 15 + "0",
    "\x85" + "a" * 15, "é" * 16, "١" * 16, "ﬁ" * 8, "x" * 15 + "\0", "../" + "a" * 13, "a" * 16 + "\n",
    " " + "a" * 15, "ａ" * 16,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        BoxID.parse(text)
    assert not BoxID.is_valid(text)


def test_minted_ids_are_unique_and_parse() -> None:
    minted = {BoxID.mint() for _ in range(1000)}
    assert len(minted) == 1000
    assert all(BoxID.parse(text) == text for text in minted)


@given(st.text(max_size=40))
def test_parse_accepts_exactly_what_mint_could_make(text: str) -> None:
    good = len(text) == 16 and all(character in "abcdefghijklmnopqrstuvwxyz234567" for character in text)
    assert BoxID.is_valid(text) is good


@given(st.text(st.characters(exclude_categories=()), max_size=400))
def test_parse_returns_the_text_itself_or_refuses_it_in_a_bounded_printable_line(text: str) -> None:
    if BoxID.is_valid(text):
        assert BoxID.parse(text) == text
        return
    with pytest.raises(InvalidArgument) as refusal:
        BoxID.parse(text)
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 1000


def test_run_ids_are_unique_and_hexadecimal() -> None:
    minted = {mint_run_id() for _ in range(1000)}
    assert len(minted) == 1000
    assert all(len(run_id) == 32 and int(run_id, 16) >= 0 for run_id in minted)


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a b", "a\n", "x" * 64, "é", "a" * 16])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_name(name)


@pytest.mark.parametrize("name", ["web", "a", "A.b_c-1", "x" * 63, "box-abcdefgh"])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


def test_unknown_keys_are_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="polcy"):
        msgspec.convert({"restart": {"polcy": "no"}}, BoxSpec)
