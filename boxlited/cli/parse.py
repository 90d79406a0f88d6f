"""The little languages of boxctl's options, as pure functions: text in, part of a request out.

Raises InvalidArgument, which names the option, what was given and what is allowed.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Mapping
from typing import Any

from boxlited.errors import InvalidArgument

LEAST_MEMORY_MIB, MOST_MEMORY_MIB = 4, 64 * 1024 * 1024  # as the daemon has it, which does not know the options
MOST_PROCESSORS = 4096
MOST_PIDS = 4194304
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_MIB = {"": 1 / 1024**2, "b": 1 / 1024**2, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0**2}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+", re.ASCII)
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def memory_mib(text: str) -> int:
    """ "512m" -> 512; a bare number is bytes, as docker's. Rounded up to a whole MiB."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"--memory {text!r}: expected a number and b, k, m or g, such as 512m")
    amount = float(match.group(1)) * _MIB[match.group(2).lower()]
    if not LEAST_MEMORY_MIB <= amount <= MOST_MEMORY_MIB:
        raise InvalidArgument(
            f"--memory {text!r}: a box has {LEAST_MEMORY_MIB}m to {MOST_MEMORY_MIB // 1024**2}t; a number without a"
            " unit is bytes"
        )
    return -int(-amount // 1)


def processors(count: float) -> float:
    if not 0 < count <= MOST_PROCESSORS:
        raise InvalidArgument(f"--cpus {count:g}: expected more than 0 and at most {MOST_PROCESSORS}, such as 1.5")
    return count


def pids(count: int) -> int:
    if not 1 <= count <= MOST_PIDS:
        raise InvalidArgument(f"--pids {count}: expected 1 to {MOST_PIDS}")
    return count


def given(option: str, text: str) -> str:
    if not text:
        raise InvalidArgument(f"{option}: nothing was given; leave it out for the default")
    return text


def environment(pairs: Iterable[str], surrounding: Mapping[str, str]) -> dict[str, str]:
    """ "K=V", or "K" for the value that boxctl itself was started with (left out when unset)."""
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key:
            raise InvalidArgument(f"-e {pair!r}: expected NAME=VALUE")
        if equals:
            result[key] = value
        elif key in surrounding:
            result[key] = surrounding[key]
    return result


def labels(pairs: Iterable[str]) -> dict[str, str]:
    result = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not key:
            raise InvalidArgument(f"-l {pair!r}: expected KEY=VALUE")
        result[key] = value
    return result


def volume(text: str) -> dict[str, Any]:
    """ "HOST:GUEST" or "HOST:GUEST:ro". A relative host path is made absolute here, where it means
    something; the daemon has another working directory."""
    parts = text.split(":")
    if len(parts) not in {2, 3} or not parts[0] or not parts[1].startswith("/"):
        raise InvalidArgument(f"-v {text!r}: expected HOST:GUEST[:ro], GUEST absolute")
    if len(parts) == 3 and parts[2] not in {"ro", "rw"}:
        raise InvalidArgument(f"-v {text!r}: the mode is {parts[2]!r}; it may be ro or rw")
    host = os.path.abspath(os.path.expanduser(parts[0]))
    return {"host_path": host, "guest_path": parts[1], "read_only": parts[-1] == "ro"}


def restart(text: str) -> dict[str, Any]:
    """ "no", "always", "on-failure" or "on-failure:N"."""
    policy, colon, retries = text.partition(":")
    if policy not in {"no", "always", "on-failure"} or (colon and policy != "on-failure"):
        raise InvalidArgument(f"--restart {text!r}: expected no, always, on-failure or on-failure:N")
    if not colon:
        return {"policy": policy}
    if not (retries.isascii() and retries.isdecimal() and len(retries) < 10):
        raise InvalidArgument(f"--restart {text!r}: {retries!r} is not a number of retries")
    return {"policy": policy, "max_retries": int(retries)}


def seconds(text: str) -> float:
    """ "90", "90s", "10m", "1h30m" -> seconds."""
    compact = text.replace(" ", "").lower()
    if re.fullmatch(r"\d+(\.\d+)?", compact, re.ASCII):
        return float(compact)
    if _DURATION.fullmatch(compact) is None:
        raise InvalidArgument(f"{text!r} is not a duration: expected such as 90s, 10m or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", compact)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def since(text: str, now: float) -> float:
    """A moment in Unix seconds: a duration ago, a date in ISO format, or Unix seconds (>= 1e9)."""
    from datetime import datetime

    try:
        ago = seconds(text)
    except InvalidArgument:
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError) as error:
            raise InvalidArgument(
                f"--since {text!r}: expected a duration (10m), a date (2025-01-31T12:00:00Z) or Unix seconds"
            ) from error
    return ago if ago >= 1e9 else now - ago


def signal_number(text: str) -> int:
    """ "9", "KILL" or "SIGKILL" -> 9."""
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= 31:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    found = signal.Signals.__members__.get(name)
    if found is None or found > 31:
        raise InvalidArgument(f"{text!r} is not a signal: expected a name such as TERM, or 1 to 31")
    return int(found)
