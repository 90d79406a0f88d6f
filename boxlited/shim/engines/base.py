"""What an engine is: turns a spec into a command that is its workload's kernel-enforced leash.

A new engine is one file beside this one. Standard library only.
"""


class EngineError(Exception):
    """A start that cannot be. `kind` is one of the exit file's error kinds."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Engine:
    """Stateless. `spec` is the decoded JSON that the daemon sealed."""

    name = ""
    wishes: frozenset[str] = frozenset()  # of "rootfs_path", "volumes": what it can honour; the rest is a 422

    def check(self, spec: dict) -> None:  # type: ignore[type-arg]
        """Look at what the host must have, before each start; blocks on its files. Raises EngineError."""

    def command(self, spec: dict, status_fd: int) -> tuple[list[str], dict[str, str]]:  # type: ignore[type-arg]
        """The argv and environment to execute. Must look at nothing: it is composed ahead. Raises EngineError."""
        raise EngineError("unsupported", f"engine {self.name} starts nothing")

    def confine(self, spec: dict) -> None:  # type: ignore[type-arg]
        """Give up for good, in the shim and all that it starts, what no box may do. Raises EngineError."""

    def environment(self, spec: dict) -> dict[str, str]:  # type: ignore[type-arg]
        """What every program of the box gets: the workload and the commands beside it."""
        raise EngineError("unsupported", f"engine {self.name} runs no commands")

    def directory(self, spec: dict) -> str:  # type: ignore[type-arg]
        """Where a program of the box begins."""
        raise EngineError("unsupported", f"engine {self.name} runs no commands")

    def identity(self, spec: dict) -> tuple[int, int]:  # type: ignore[type-arg]
        """(uid, gid) of the box's programs, as the box sees them."""
        raise EngineError("unsupported", f"engine {self.name} runs no commands")


def workload_argv(spec: dict) -> list[str]:  # type: ignore[type-arg]
    """The box's command; a box without one stays up for commands to come."""
    return list(spec["argv"]) or ["/bin/sleep", "infinity"]
