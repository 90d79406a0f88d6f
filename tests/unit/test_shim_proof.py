"""The proof on the control channel: only who knows the key of this very run passes, and nothing can be used twice."""

from __future__ import annotations

import inspect
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.shim import proof
from boxlited.shim.proof import NONCE_BYTES, PROOF_BYTES, Unproven

HOME_KEY = bytes(range(32))
KEY = proof.run_key(HOME_KEY, "box", "run")
NONCES = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)


def test_both_sides_that_know_the_key_pass() -> None:
    ours, theirs = os.urandom(NONCE_BYTES), os.urandom(NONCE_BYTES)
    assert proof.read_hello(proof.hello(ours)) == ours
    assert proof.check_answer(KEY, ours, proof.answer(KEY, ours, theirs)) == theirs
    proof.check_client(KEY, ours, theirs, proof.client_proof(KEY, ours, theirs))


def test_lengths_are_those_that_are_read() -> None:
    nonce = bytes(NONCE_BYTES)
    assert len(proof.hello(nonce)) == proof.HELLO_BYTES
    assert len(proof.answer(KEY, nonce, nonce)) == proof.ANSWER_BYTES
    assert len(proof.client_proof(KEY, nonce, nonce)) == PROOF_BYTES


@given(st.integers(0, proof.ANSWER_BYTES - 1), st.integers(1, 255), NONCES, NONCES)
def test_an_answer_with_any_byte_changed_proves_nothing(place: int, change: int, ours: bytes, theirs: bytes) -> None:
    answer = bytearray(proof.answer(KEY, ours, theirs))
    answer[place] ^= change
    with pytest.raises(Unproven):
        proof.check_answer(KEY, ours, bytes(answer))


@given(st.integers(0, PROOF_BYTES - 1), st.integers(1, 255), NONCES, NONCES)
def test_a_client_proof_with_any_byte_changed_proves_nothing(
    place: int, change: int, ours: bytes, theirs: bytes
) -> None:
    changed = bytearray(proof.client_proof(KEY, ours, theirs))
    changed[place] ^= change
    with pytest.raises(Unproven):
        proof.check_client(KEY, ours, theirs, bytes(changed))


@given(st.integers(0, len(proof.MAGIC)), st.integers(1, 255))
def test_another_magic_or_version_is_refused(place: int, change: int) -> None:
    hello = bytearray(proof.hello(bytes(NONCE_BYTES)))
    hello[place] ^= change
    with pytest.raises(Unproven):
        proof.read_hello(bytes(hello))


def test_a_proof_serves_neither_another_connection_nor_the_other_side() -> None:
    first, second, theirs = (bytes([n]) * NONCE_BYTES for n in range(3))
    with pytest.raises(Unproven):
        proof.check_answer(KEY, second, proof.answer(KEY, first, theirs))
    with pytest.raises(Unproven):
        proof.check_client(KEY, second, theirs, proof.client_proof(KEY, first, theirs))
    with pytest.raises(Unproven):
        proof.check_client(KEY, first, second, proof.client_proof(KEY, first, theirs))
    reflected = proof.answer(KEY, first, theirs)[1 + NONCE_BYTES :]
    with pytest.raises(Unproven):
        proof.check_client(KEY, first, theirs, reflected)
    with pytest.raises(Unproven):
        proof.check_client(KEY, theirs, first, reflected)


def test_key_is_another_for_each_home_box_and_run() -> None:
    parts = [("box", "run"), ("box", "run2"), ("box2", "run"), ("boxr", "un"), ("bo", "xrun"), ("", "boxrun")]
    keys = {proof.run_key(home, *names) for names in parts for home in (HOME_KEY, bytes(32))}
    assert len(keys) == 2 * len(parts)
    assert all(len(key) == 32 for key in keys)
    assert proof.run_key(HOME_KEY, "box", "run") == KEY


def test_comparison_takes_constant_time() -> None:
    """Time cannot be measured reliably; that nothing but `compare_digest` compares can be read."""
    for check in (proof.check_answer, proof.check_client):
        source = inspect.getsource(check)
        assert "hmac.compare_digest" in source
        assert "proof ==" not in source
        assert "proof !=" not in source
