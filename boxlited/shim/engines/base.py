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

    def command(self, spec: dict, status_fd: int) -> tuple[list[str], dict[str, str]]:  # type: ignore[type-arg]
        """The argv and environment to execute. Raises EngineError."""
        raise EngineError("unsupported", f"engine {self.name} starts nothing")


def workload_argv(spec: dict) -> list[str]:  # type: ignore[type-arg]
    """The box's command; a box without one stays up for commands to come."""
    return list(spec["argv"]) or ["/bin/sleep", "infinity"]
