"""Numbers and times as people say them, and a box's state in a few words. Pure: `now` is given."""

from __future__ import annotations

from datetime import datetime

from boxlited.client.values import BoxInfo

_CAUSES = {
    "user": "stopped by the user",
    "exited": "",  # the exit code beside it says it
    "oom": "out of memory",
    "shim_killed": "its shim left no record",
    "lost": "gone without a trace",
    "host_rebooted": "the host rebooted",
    "start_failed": "could not start",
    "directory_missing": "its directory is missing",
    "auto_stop": "stopped after its idle time",
    "drained": "the daemon was drained",
}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def timestamp(value: object) -> float | None:
    """Unix seconds of a time in a reply: a number, or RFC 3339 text. None when it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def duration(seconds: float) -> str:
    """The largest unit that fits: 59s, 3m, 26h, 4d. Never negative: clocks of two hosts differ."""
    seconds = max(0.0, seconds)
    for unit, size in _UNITS:
        if seconds >= (48 * 3600 if unit == "d" else size):
            return f"{int(seconds // size)}{unit}"
    return "0s"


def size(count: float) -> str:
    """Bytes with a binary unit: 512B, 1.5KiB, 12MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f}{unit}" if unit == "B" or count >= 10 else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}TiB"


def state(box: BoxInfo, now: float) -> str:
    """What a box does and since when: "running 3m", "failed 2m ago", "stopped (0) 1h ago".

    One that has ended and is still wanted to run waits for its restart policy: "restarting (1) 2s ago".
    """
    status = str(box.get("status", "unknown"))
    if status == "running":
        return _join(status, _age(box.get("started_at"), now))
    if status in {"stopped", "failed"}:
        ended = _age(box.get("ended_at") or box.get("updated_at"), now)
        due = box.get("desired") in {"running", "restarted"}
        return _join("restarting" if due else status, _exit(box), f"{ended} ago" if ended else "")
    if status == "configured":
        created = _age(box.get("created_at"), now)
        return _join("created", f"{created} ago" if created else "")
    return status


def reason(box: BoxInfo) -> str:
    """Why a box is not running, or what is odd about one that is; on one line."""
    status = box.get("status")
    if status in {"running", "configured", "stopping"}:
        said = box.get("warning")
    else:
        said = box.get("failure_reason") or box.get("warning") or box.get("stop_cause")
    words = " ".join(str(said or "").split())
    return _CAUSES.get(words, words)


def _exit(box: BoxInfo) -> str:
    if box.get("exit_signal"):
        return f"({box['exit_signal']})"
    code = box.get("exit_code")
    return "" if code is None else f"({code})"


def _age(since: object, now: float) -> str:
    at = timestamp(since)
    return "" if at is None else duration(now - at)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
