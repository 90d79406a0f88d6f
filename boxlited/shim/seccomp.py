"""What no namespace holds back, a filter of system calls does: keyrings, and sockets to the hypervisor.

The kernel's keys belong to a user, not to a user namespace: a box whose user is the daemon's could read the
keys of that user, and of the session that the daemon was started in. Sockets of AF_VSOCK belong to no network
namespace. Nothing else is filtered. Installed once in the shim, before anything of the box is forked, so that
everything in the box inherits it. Standard library only.
"""

import ctypes
import errno
import os
import struct

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
MODE_FILTER = 2

LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in seccomp_data; the low half of the argument
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
AF_VSOCK = 40
SOCKETCALL_SOCKET = 1  # its own arguments are out of a filter's sight
NOT_X32 = 0xFFFFFFFF ^ 0x40000000

# architecture of the caller -> (add_key, request_key, keyctl), socket, socketcall
CALLS: dict[int, tuple[tuple[int, ...], int, int | None]] = {
    0xC000003E: ((248, 249, 250), 41, None),  # x86_64 and x32
    0x40000003: ((286, 287, 288), 359, 102),  # i386
    0xC00000B7: ((217, 218, 219), 198, None),  # aarch64
    0x40000028: ((309, 310, 311), 281, 102),  # arm
    0xC00000F3: ((217, 218, 219), 198, None),  # riscv64
}

Instruction = tuple[int, int, int, int]


def _refuse_if(value: int, number: int) -> list[Instruction]:
    return [(EQUAL, 0, 1, value), (RETURN, 0, 0, REFUSE | number)]


def _of_architecture(keys: tuple[int, ...], socket: int, socketcall: int | None, network: bool) -> list[Instruction]:
    body: list[Instruction] = [(LOAD, 0, 0, NUMBER), (AND, 0, 0, NOT_X32)]
    for number in keys:
        body += _refuse_if(number, errno.ENOSYS)
    refused = [] if network else [(socket, AF_VSOCK)]
    if socketcall is not None and not network:
        refused.append((socketcall, SOCKETCALL_SOCKET))
    for number, argument in refused:
        check = [(LOAD, 0, 0, FIRST_ARGUMENT), *_refuse_if(argument, errno.EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
        body += [(EQUAL, 0, len(check), number), *check]
    return [*body, (RETURN, 0, 0, ALLOW)]


def program(*, network: bool) -> bytes:
    """The filter, as the kernel takes it."""
    code: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE)]
    for architecture, (keys, socket, socketcall) in CALLS.items():
        body = _of_architecture(keys, socket, socketcall, network)
        code += [(EQUAL, 0, len(body), architecture), *body]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in [*code, (RETURN, 0, 0, ALLOW)])


_PROGRAMS = {network: ctypes.create_string_buffer(program(network=network)) for network in (False, True)}
_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)


def install(*, network: bool) -> None:
    """For this process and all that it starts, for good; no new privileges come with it. Raises OSError."""
    code = _PROGRAMS[network]
    filter_ = ctypes.create_string_buffer(struct.pack("HP", (len(code) - 1) // 8, ctypes.addressof(code)))
    for option, argument, pointer in (
        (PR_SET_NO_NEW_PRIVS, 1, None),
        (PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(filter_)),
    ):
        if _prctl(option, argument, pointer, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
