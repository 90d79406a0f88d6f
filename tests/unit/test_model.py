"""Ids and names: minted in one place, parsed in one place, never repaired."""

from __future__ import annotations

import base64
import secrets
import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.errors import InvalidArgument
from boxlited.model import (
    Backoff,
    Box,
    BoxID,
    BoxSpec,
    Event,
    EventKind,
    Network,
    Outbound,
    Restart,
    RestartPolicyName,
    Volume,
    check_name,
    mint_run_id,
)

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


@pytest.mark.parametrize("text", [None, 7, b"a" * 16, ["a" * 16]])
def test_what_is_no_text_is_refused_as_no_id(text: object) -> None:
    with pytest.raises(InvalidArgument):
        BoxID.parse(text)  # type: ignore[arg-type]


def test_a_refusal_stays_short_however_long_the_text() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        BoxID.parse("\U0001f980" * 10**6)
    assert len(refusal.value.message) < 1000


def test_an_id_draws_on_all_of_its_80_bits() -> None:
    minted = [BoxID.mint() for _ in range(2000)]
    for position in range(16):
        assert {one[position] for one in minted} == set("abcdefghijklmnopqrstuvwxyz234567")


@given(st.binary(min_size=10, max_size=10))
def test_whatever_the_random_bytes_the_minted_id_parses(drawn: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_bytes", lambda size: drawn[:size])
        minted = BoxID.mint()
    assert base64.b32decode(minted.upper()) == drawn
    assert BoxID.parse(str(minted)) == minted
    assert type(BoxID.parse(str(minted))) is BoxID


NAMES = st.text(string.ascii_letters + string.digits + "_.-/ \0\né", max_size=70)


@given(st.one_of(NAMES, st.text(max_size=70), st.text("abc234567", min_size=15, max_size=17)))
def test_a_name_that_passes_is_one_harmless_word_and_never_an_id(name: str) -> None:
    try:
        assert check_name(name) == name
    except InvalidArgument as error:
        refused = error.message.isprintable() and len(error.message) < 400
        assert refused
        return
    assert not BoxID.is_valid(name)
    assert Path("/x", name).name == name
    assert 1 <= len(name) <= 63
    assert name.isascii()
    assert name[0] not in ".-_"


# ---- what a client asks for

WORD = st.text(max_size=8)
SPECS = st.builds(
    BoxSpec,
    name=st.none() | WORD,
    image=st.none() | WORD,
    cpus=st.none() | st.floats(0.001, 4096),
    memory_mib=st.none() | st.integers(4, 64 << 20),
    env=st.dictionaries(WORD, WORD, max_size=3),
    cmd=st.none() | st.lists(WORD, max_size=3).map(tuple),
    volumes=st.lists(st.builds(Volume, guest_path=WORD, host_path=st.none() | WORD), max_size=2).map(tuple),
    network=st.none() | st.builds(Network, mode=st.none() | WORD),
    labels=st.dictionaries(WORD, WORD, max_size=3),
    restart=st.builds(
        Restart,
        policy=st.sampled_from(RestartPolicyName),
        max_retries=st.none() | st.integers(0, 2**62),
        backoff=st.builds(Backoff, initial_seconds=st.floats(1e-9, 3600), max_seconds=st.floats(1e-9, 86400)),
    ),
    stop_signal=st.integers(1, 31),
)


@given(SPECS)
def test_a_spec_comes_back_from_json_as_it_was(spec: BoxSpec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(spec), type=BoxSpec) == spec


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("cpus", [0, -1, 4097, "1", True]),
        ("memory_mib", [0, 3, 1.5, 64 * 1024 * 1024 + 1, "4"]),
        ("pids", [0, 4194305]),
        ("disk_size_gb", [0]),
        ("stop_signal", [0, 32, 64, -1, "TERM"]),
        ("auto_stop", [-1, 1.5, 10 * 365 * 86400 + 1]),
        ("restart", [{"policy": "sometimes"}, {"max_retries": -1}, {"backoff": {"initial_seconds": 0}}]),
        ("restart", [{"backoff": {"max_seconds": 86401}}, {"backoff": {"initial_seconds": 3601}}, {"backof": {}}]),
        ("env", [{"A": 1}, ["A=b"], None]),
        ("cmd", ["sleep 1", [1]]),
        ("volumes", [[{}], [{"guest_path": 1}], [{"guest_path": "/x", "mode": "ro"}]]),
        ("network", [{"outbound": {"mode": 1}}, {"outbnd": {}}]),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key(key: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(msgspec.ValidationError, match=key):
            msgspec.convert({key: value}, BoxSpec)


def test_the_command_is_entrypoint_and_cmd_and_may_be_empty() -> None:
    assert BoxSpec().argv == ()
    assert BoxSpec(entrypoint=("a", "b"), cmd=("c",)).argv == ("a", "b", "c")
    assert BoxSpec(entrypoint=(), cmd=("c",)).argv == ("c",)


def test_outbound_beats_the_older_flat_mode_and_the_default_is_off() -> None:
    assert Network().outbound_mode == "disabled"
    assert Network(mode="enabled").outbound_mode == "enabled"
    assert Network(mode="enabled", outbound=Outbound()).outbound_mode == "disabled"


def test_values_do_not_change_and_share_no_default() -> None:
    first, second = BoxSpec(), BoxSpec()
    assert first.env is not second.env
    for value in (first, Restart(), Event(seq=1, at=1.0, kind=EventKind.CREATED)):
        with pytest.raises(AttributeError):
            setattr(value, value.__struct_fields__[0], None)
    assert Box.__struct_config__.frozen
