"""The filter of system calls, run by a few lines that do what the kernel does with it."""

from __future__ import annotations

import errno
import struct

import pytest

from boxlited.shim import seccomp

ALLOWED = 0
X32 = 0x40000000
AF_INET, AF_VSOCK = 2, 40
FOREIGN = 0xC00000B8  # an architecture that the table does not know


def verdict(code: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """The errno that a call gets; 0 where it is let through."""
    seen = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: architecture, seccomp.FIRST_ARGUMENT: argument}
    instructions = list(struct.iter_unpack("HBBI", code))
    accumulator, at = 0, 0
    while True:
        operation, yes, no, value = instructions[at]
        at += 1
        if operation == seccomp.LOAD:
            accumulator = seen[value]
        elif operation == seccomp.AND:
            accumulator &= value
        elif operation == seccomp.EQUAL:
            at += yes if accumulator == value else no
        else:
            assert operation == seccomp.RETURN
            return 0 if value == seccomp.ALLOW else value & 0xFFFF


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("architecture", seccomp.CALLS)
def test_keyrings_are_refused_whatever_the_architecture_of_the_caller(architecture: int, network: bool) -> None:
    code = seccomp.program(network=network)
    keys, socket, socketcall = seccomp.CALLS[architecture]
    for number in keys:
        assert verdict(code, architecture, number) == errno.ENOSYS
        assert verdict(code, architecture, number | X32) == errno.ENOSYS
    assert verdict(code, architecture, socket, AF_INET) == ALLOWED
    assert verdict(code, architecture, socket, AF_VSOCK) == (ALLOWED if network else errno.EAFNOSUPPORT)
    if socketcall is not None:
        assert verdict(code, architecture, socketcall, seccomp.SOCKETCALL_SOCKET) == (
            ALLOWED if network else errno.EAFNOSUPPORT
        )
        assert verdict(code, architecture, socketcall, 3) == ALLOWED


@pytest.mark.parametrize("architecture", [*seccomp.CALLS, FOREIGN])
def test_everything_else_goes_through(architecture: int) -> None:
    keys, socket, socketcall = seccomp.CALLS.get(architecture, ((), -1, None))
    for number in range(600):
        if number not in (*keys, socket, socketcall):
            assert verdict(seccomp.program(network=False), architecture, number, AF_VSOCK) == ALLOWED


def test_no_jump_is_longer_than_a_byte_and_the_kernel_takes_the_length() -> None:
    for network in (False, True):
        assert len(seccomp.program(network=network)) // 8 < 4096
