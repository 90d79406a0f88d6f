"""CrashReport: what happened, likely causes, where to look, from an exit record and log tails.

Pure but for `tail`. Everything that a box wrote is made harmless before it enters a report:
control characters and terminal escapes are shown, not obeyed, and lengths are bounded.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from boxlited.supervisor.exitfile import ExitInfo
from boxlited.supervisor.kernel import ExitStatus

MAX_LINE = 400
MAX_LINES = 40

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
        message += f" Look at {console_path} and {stderr_path}."
        debug = "\n".join(
            (
                f"exit record: {_record(info)}",
                f"shim: {_status(shim_status)}",
                f"--- end of {stderr_path}",
                excerpt(stderr_tail),
                f"--- end of {console_path}",
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
            return f"was killed by {signal} (exit code {info.exit_code})", _CAUSES.get(signal, "")
        case "panic":
            where = f" at {sanitize(info.location)}" if info.location else ""
            return f"panicked{where}: {sanitize(info.message or 'no message')}", "a bug in the shim or its engine"
        case "error":
            return f"failed: {sanitize(info.message or 'no message')}", ""
        case _:
            return f"ended with exit code {info.exit_code}", ""


def _explain_missing(status: ExitStatus | None) -> tuple[str, str]:
    if status is None:
        return "is gone and left no exit file", "the shim was killed while nobody watched, or its directory was lost"
    if status.signal_name is not None:
        text = f"lost its shim: the shim was killed by {status.signal_name} and left no exit file"
        return text, _CAUSES.get(status.signal_name, "")
    return f"lost its shim: it ended with code {status.code} and left no exit file", "a full disk or a bug in the shim"


def _error_kind(info: ExitInfo | None) -> str | None:
    if info is None:
        return "engine"
    return info.error_kind or {"signal": "crash", "panic": "internal", "error": "engine"}.get(info.kind)


def _record(info: ExitInfo | None) -> str:
    if info is None:
        return "none"
    return sanitize(", ".join(f"{key}={value}" for key, value in info._asdict().items() if value is not None))


def _status(status: ExitStatus | None) -> str:
    if status is None:
        return "how it ended is not known"
    return status.signal_name or f"code {status.code}"


def sanitize(text: str, limit: int = MAX_LINE) -> str:
    """One harmless line: control, format and direction characters become visible escapes."""
    shown = "".join(_visible(character) for character in text[: limit * 4])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def excerpt(data: bytes) -> str:
    """The last lines of a log, each made harmless and bounded."""
    lines = data.decode("utf-8", "replace").splitlines()
    return "\n".join(sanitize(line) for line in lines[-MAX_LINES:]) or "(empty)"


def tail(path: os.PathLike[str] | str, max_bytes: int) -> bytes:
    """The end of a file that a box may have written; b"" when there is none or it is refused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(fd, max_bytes, max(0, status.st_size - max_bytes))
    except OSError:
        return b""
    finally:
        os.close(fd)
