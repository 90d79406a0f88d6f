"""Engine `process`: no isolation, but still no orphans.

The workload sees the host as it is. bubblewrap serves only as a leash: a pid namespace whose
init dies with the shim, so the kernel itself ends everything below, however often it forked.
"""

import os

from boxlited.shim.engines.base import Engine, EngineError, workload_argv
from boxlited.shim.users import identity_arguments, resolve

INHERITED = ("PATH", "HOME", "LANG", "TZ")


class ProcessEngine(Engine):
    name = "process"

    def check(self, spec: dict) -> None:  # type: ignore[type-arg]
        directory = spec["working_dir"]
        if directory is not None and not os.path.isdir(directory):
            raise EngineError("config", f"working_dir {directory!r} is not a directory")

    def command(self, spec: dict, status_fd: int) -> tuple[list[str], dict[str, str]]:  # type: ignore[type-arg]
        argv = [spec["bwrap"], "--die-with-parent", "--unshare-pid", "--json-status-fd", str(status_fd)]
        argv += ["--dev-bind", "/", "/", "--proc", "/proc"]
        if not spec["tty"]:
            argv.append("--new-session")
        argv += identity_arguments(spec["user"])
        if spec["working_dir"] is not None:
            argv += ["--chdir", spec["working_dir"]]
        return [*argv, "--", *workload_argv(spec)], self.environment(spec)

    def environment(self, spec: dict) -> dict[str, str]:  # type: ignore[type-arg]
        return {**{key: os.environ[key] for key in INHERITED if key in os.environ}, **spec["env"]}

    def directory(self, spec: dict) -> str:  # type: ignore[type-arg]
        return spec["working_dir"] or os.getcwd()

    def identity(self, spec: dict) -> tuple[int, int]:  # type: ignore[type-arg]
        return (os.geteuid(), os.getegid()) if spec["user"] is None else resolve(spec["user"])
