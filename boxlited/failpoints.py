"""Named failpoints: where a test may kill, fail or hold a process. Nothing by default.

`BOXLITED_FAILPOINTS=start.after_intent=kill,hook.pid_file=error:28@2` names points and
actions: kill (SIGKILL self), exit, error:ERRNO (an OSError), pause:FIFO (until it was opened
for writing and closed); `@N` means from the N-th hit on, once. Standard library only.
"""

import os

_ENVIRONMENT = "BOXLITED_FAILPOINTS"
_actions: dict[str, tuple[str, int]] = {}
_hits: dict[str, int] = {}


def load(text: str) -> None:
    """Replace the active failpoints by what the text names."""
    _actions.clear()
    _hits.clear()
    for item in text.split(","):
        name, separator, action = item.strip().partition("=")
        if separator:
            what, _, count = action.partition("@")
            _actions[name] = (what, int(count or 1))


def hit(name: str) -> None:
    """Mark a point of the code. Raises OSError where the environment asks for it."""
    if not _actions or name not in _actions:
        return
    _hits[name] = _hits.get(name, 0) + 1
    what, count = _actions[name]
    if _hits[name] == count:
        _act(what)


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


load(os.environ.get(_ENVIRONMENT, ""))
