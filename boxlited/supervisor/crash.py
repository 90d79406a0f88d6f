"""CrashReport: what happened, likely causes, where to look, from an exit record and log tails.

Pure but for `tail`. Everything that a box wrote is made harmless before it enters a report:
control characters and terminal escapes are shown, not obeyed, and lengths are bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from boxlited.supervisor.exitfile import ExitInfo
from boxlited.supervisor.kernel import ExitStatus, signal_name

MAX_LINE = 400
MAX_LINES = 40
MAX_PATH = 4096
_NO_LOG = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})  # ELOOP a link, ENXIO a socket

_CAUSES = {
    "SIGABRT": "the program aborted itself: a failed assertion, a panic, or corrupted memory that malloc noticed",
    "SIGSEGV": "the program used memory that is not its own: a bug in native code, or a stack overflow",
    "SIGBUS": "memory could not be delivered: a truncated mapped file, or the disk or /dev/shm is full",
    "SIGILL": "an instruction that this processor does not have: a binary for another CPU, or a deliberate trap",
    "SIGSYS": "a system call was forbidden: a seccomp filter does not allow it",
    "SIGKILL": "somebody killed it: the out-of-memory killer of the host, an administrator, or another program",
    "SIGTERM": "somebody asked it to end: an administrator or another program",
    "SIGPIPE": "it wrote to a pipe or socket that nobody reads any more",
    "SIGFPE": "an arithmetic error such as a division by zero in native code",
    "SIGXCPU": "it used up its CPU time limit",
}


_UNKNOWN_SIGNAL = "a signal that is not usual; the one who sent it knows why"
_ERROR_CAUSES = {
    "unsupported": "this host or engine cannot do what the box asks for; `boxctl doctor` says what is missing",
    "config": "the box's configuration is wrong; remove it and create it again, corrected",
    "not_found": "a program, directory or user that the box names does not exist",
    "storage": "the disk is full, or a path cannot be written",
    "image": "the image could not be fetched or unpacked",
    "network": "the network of the box could not be set up",
    "invalid_state": "something of an earlier run is in the way",
    "internal": "a bug in boxlited",
    "engine": "the engine could not start or keep the box; `boxctl doctor` checks what it needs",
}
_EXIT_CAUSES = {
    126: "the command was found but could not be executed: no permission, or no program",
    127: "the command was not found",
}


@dataclass(frozen=True, slots=True)
class CrashReport:
    """`user_message` is one paragraph for a person, its first sentence fit for a table."""

    user_message: str
    debug_info: str
    error_kind: str | None

    @classmethod
    def build(
        cls,
        name: str,
        info: ExitInfo | None,
        shim_status: ExitStatus | None,
        oom: bool,
        stderr_tail: bytes,
        console_tail: bytes,
        stderr_path: os.PathLike[str] | str,
        console_path: os.PathLike[str] | str,
    ) -> CrashReport:
        """`shim_status` is how the shim itself ended, where that was seen."""
        happened, causes = _explain(info, shim_status, oom=oom)
        message = f"box {sanitize(name)} {happened}."
        if causes:
            message += f" Likely: {causes}."
        console, stderr = _path(console_path), _path(stderr_path)
        message += f" Look at {console} and {stderr}."
        debug = "\n".join(
            (
                f"exit record: {_record(info)}",
                *_shim_line(info, shim_status),
                f"--- end of {stderr}",
                excerpt(stderr_tail),
                f"--- end of {console}",
                excerpt(console_tail),
            )
        )
        return cls(message, debug, _error_kind(info))

    @property
    def summary(self) -> str:
        """The first sentence."""
        return self.user_message.split(". ", 1)[0].removesuffix(".") + "."


def _explain(info: ExitInfo | None, shim_status: ExitStatus | None, *, oom: bool) -> tuple[str, str]:
    if oom:
        return (
            "was killed by the kernel's out-of-memory killer (SIGKILL)",
            "it used more memory than its limit; raise memory_mib or make it use less",
        )
    if info is None:
        return _explain_missing(shim_status)
    match info.kind:
        case "signal":
            signal = sanitize(info.signal or "a signal")
            doubt = f", or ended by itself with code {info.exit_code}" if info.ambiguous else ""
            return f"was killed by {signal} (exit code {info.exit_code}){doubt}", _CAUSES.get(signal, _UNKNOWN_SIGNAL)
        case "panic":
            where = f" at {sanitize(info.location)}" if info.location else ""
            return f"panicked{where}: {sanitize(info.message or 'no message')}", "a bug in the shim or its engine"
        case "error":
            return f"failed: {sanitize(info.message or 'no message')}", _ERROR_CAUSES.get(
                info.error_kind or "engine", ""
            )
        case _:
            return f"ended with exit code {info.exit_code}", _exit_causes(info.exit_code)


def _exit_causes(code: int) -> str:
    if code == 0:
        return ""
    if code > 128 and signal_name(code - 128) in _CAUSES:
        return f"a program inside it was killed by {signal_name(code - 128)}"
    return _EXIT_CAUSES.get(code, "the program itself reported a failure; its output says which")


def _explain_missing(status: ExitStatus | None) -> tuple[str, str]:
    if status is None:
        return "is gone and left no exit file", "the shim was killed while nobody watched, or its directory was lost"
    if status.signal_name is not None:
        text = f"lost its shim: the shim was killed by {status.signal_name} and left no exit file"
        return text, _CAUSES.get(status.signal_name, _UNKNOWN_SIGNAL)
    return (
        f"ended without a record: its shim exited with code {status.code}, as a rule the workload's own, and left no"
        " exit file",
        "the disk is full or fails, so that nothing could be written, or the shim has a bug",
    )


def _error_kind(info: ExitInfo | None) -> str | None:
    if info is None:
        return "engine"
    return info.error_kind or {"signal": "crash", "panic": "internal", "error": "engine"}.get(info.kind)


def _record(info: ExitInfo | None) -> str:
    if info is None:
        return "none"
    return sanitize(", ".join(f"{key}={value}" for key, value in info._asdict().items() if value not in (None, False)))


def _shim_line(info: ExitInfo | None, status: ExitStatus | None) -> tuple[str, ...]:
    """How the shim itself ended: worth a line when somebody saw it, or when nothing else is known."""
    if status is not None:
        return (f"shim: {status.signal_name or f'code {status.code}'}",)
    return () if info is not None else ("shim: how it ended is not known",)


def sanitize(text: str, limit: int = MAX_LINE) -> str:
    """One harmless line: control, format and direction characters become visible escapes."""
    shown = "".join(_visible(character) for character in text[: limit * 4])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _path(path: os.PathLike[str] | str) -> str:
    return sanitize(os.fspath(path), limit=MAX_PATH)


def excerpt(data: bytes) -> str:
    """The last lines of a log, each made harmless and bounded."""
    lines = data.decode("utf-8", "replace").splitlines()
    return "\n".join(sanitize(line) for line in lines[-MAX_LINES:]) or "(empty)"


def tail(path: os.PathLike[str] | str, max_bytes: int) -> bytes:
    """The end of a file that a box may have written; b"" when there is none or it is refused.

    One that cannot be read says so itself: it is not empty.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return b"" if error.errno in _NO_LOG else _unread(error)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(fd, max_bytes, max(0, status.st_size - max_bytes))
    except OSError as error:
        return _unread(error)
    finally:
        os.close(fd)


def _unread(error: OSError) -> bytes:
    return f"(could not be read: {error.strerror})".encode()
