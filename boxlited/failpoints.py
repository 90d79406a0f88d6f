"""Named failpoints: where a test may kill, fail or hold a process. Nothing by default.

`BOXLITED_FAILPOINTS=start.after_intent=kill,hook.pid_file=error:28@2` names points and
actions: kill (SIGKILL self), exit, error:ERRNO (an OSError), pause:FIFO (until it was opened
for writing and closed); `@N` means at the N-th hit, once. Text that says anything else is a
ValueError: a test with a misspelt action must not pass. A point that acts says so first in the
file that `BOXLITED_FAILPOINTS_ACTED` names: one that is never reached must not pass either.
`BOXLITED_FAILPOINTS=@FILE` has the text in a file that is read again at every point: a test sets
them in processes that run already, and hits are counted from then on.
Standard library only.
"""

import errno
import os

_ENVIRONMENT = "BOXLITED_FAILPOINTS"
_ACTED = "BOXLITED_FAILPOINTS_ACTED"
_actions: dict[str, tuple[str, int]] = {}
_hits: dict[str, int] = {}
_file = ""
_file_text = ""


def load(text: str) -> None:
    """Replace the active failpoints by what the text names. Raises ValueError and changes nothing."""
    actions = dict(_parse(item.strip()) for item in text.split(",") if item.strip())
    _actions.clear()
    _hits.clear()
    _actions.update(actions)


def _parse(item: str) -> tuple[str, tuple[str, int]]:
    name, _, action = item.partition("=")
    what, _, count = action.rpartition("@")
    if not what or not _is_number(count):
        what, count = action, "1"
    if not name or not _is_action(what) or int(count) < 1:
        raise ValueError(f"{_ENVIRONMENT}: {item!r} is not NAME=kill|exit|error:ERRNO|pause:FIFO with @N or without")
    return name, (what, int(count))


def _is_action(what: str) -> bool:
    kind, _, argument = what.partition(":")
    if kind == "error":
        return _is_number(argument)
    return bool(argument) if kind == "pause" else what in ("kill", "exit")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def hit(name: str) -> None:
    """Mark a point of the code. Raises OSError where the environment asks for it."""
    if _file:
        _read_file()
    if not _actions or name not in _actions:
        return
    _hits[name] = _hits.get(name, 0) + 1
    what, count = _actions[name]
    if _hits[name] == count:
        _tell(name)
        _act(what)


def _tell(name: str) -> None:
    path = os.environ.get(_ACTED)
    if path:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(fd, f"{name}\n".encode())
        os.close(fd)


def _act(what: str) -> None:
    kind, _, argument = what.partition(":")
    if kind == "kill":
        os.kill(os.getpid(), 9)
    elif kind == "exit":
        os._exit(99)
    elif kind == "error":
        raise OSError(int(argument), os.strerror(int(argument)))
    elif kind == "pause":
        fd = os.open(argument, os.O_RDONLY)
        os.read(fd, 1)
        os.close(fd)


def _begin(text: str) -> None:
    global _file  # noqa: PLW0603  # one of each process, like the environment that it is from
    if text.startswith("@"):
        _file = text[1:]
    else:
        load(text)


def _read_file() -> None:
    global _file_text  # noqa: PLW0603
    try:
        fd = os.open(_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return  # a test left it no descriptor: what it heard before holds
        raise
    text = os.read(fd, 4096).decode()
    os.close(fd)
    if text != _file_text:
        load(text)
        _file_text = text


_begin(os.environ.get(_ENVIRONMENT, ""))
