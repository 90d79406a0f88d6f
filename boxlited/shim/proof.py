"""How daemon and shim prove themselves to each other: HMAC-SHA256 over both sides' random numbers.

The key travels in the sealed spec only. Nothing of it is ever sent, and a proof of one side is none
of the other's, nor of another connection. Pure. Standard library only.

    client -> MAGIC VERSION nonce(32)
    server -> VERSION nonce(32) proof(32)       the shim proves itself first: it is the one in doubt
    client -> proof(32), then frames
"""

import hashlib
import hmac

MAGIC = b"BXLC"
VERSION = 1
NONCE_BYTES = 32
PROOF_BYTES = 32
HELLO_BYTES = len(MAGIC) + 1 + NONCE_BYTES
ANSWER_BYTES = 1 + NONCE_BYTES + PROOF_BYTES

_SHIM = b"boxlited shim 1"
_DAEMON = b"boxlited daemon 1"
_RUN = b"boxlited run 1"


class Unproven(Exception):
    """The other side did not show that it knows the key."""


def run_key(home_key: bytes, box_id: str, run_id: str) -> bytes:
    """The key of one run of one box: a daemon that was restarted derives it again."""
    return _mac(home_key, _RUN, box_id.encode(), run_id.encode())


def hello(nonce: bytes) -> bytes:
    return MAGIC + bytes([VERSION]) + nonce


def read_hello(data: bytes) -> bytes:
    """The client's nonce. Raises Unproven for another protocol or version."""
    if data[: len(MAGIC)] != MAGIC or data[len(MAGIC)] != VERSION:
        raise Unproven("this is not the protocol of the control channel, or another version of it")
    return data[len(MAGIC) + 1 :]


def answer(key: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    return bytes([VERSION]) + server_nonce + _mac(key, _SHIM, client_nonce, server_nonce)


def check_answer(key: bytes, client_nonce: bytes, data: bytes) -> bytes:
    """The server's nonce, once it has proven itself. Raises Unproven."""
    nonce, proof = data[1 : 1 + NONCE_BYTES], data[1 + NONCE_BYTES :]
    if data[0] != VERSION or not hmac.compare_digest(proof, _mac(key, _SHIM, client_nonce, nonce)):
        raise Unproven("the shim does not know the key of its run")
    return nonce


def client_proof(key: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    return _mac(key, _DAEMON, server_nonce, client_nonce)


def check_client(key: bytes, client_nonce: bytes, server_nonce: bytes, proof: bytes) -> None:
    """Raises Unproven."""
    if not hmac.compare_digest(proof, client_proof(key, client_nonce, server_nonce)):
        raise Unproven("the client does not know the key of this run")


def _mac(key: bytes, *parts: bytes) -> bytes:
    """Each part is preceded by its length, so that no two lists of parts are the same bytes."""
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(key, message, hashlib.sha256)
