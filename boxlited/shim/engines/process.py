"""Engine `process`: no isolation, but still no orphans.

The workload sees the host as it is. bubblewrap serves only as a leash: a pid namespace whose
init dies with the shim, so the kernel itself ends everything below, however often it forked.
"""

import os

from boxlited.shim.engines.base import Engine, EngineError, workload_argv
from boxlited.shim.users import identity_arguments

INHERITED = ("PATH", "HOME", "LANG", "TZ")


class ProcessEngine(Engine):
    name = "process"

    def command(self, spec: dict, status_fd: int) -> tuple[list[str], dict[str, str]]:  # type: ignore[type-arg]
        argv = [spec["bwrap"], "--die-with-parent", "--unshare-pid", "--json-status-fd", str(status_fd)]
        argv += ["--dev-bind", "/", "/", "--proc", "/proc"]
        if not spec["tty"]:
            argv.append("--new-session")
        argv += identity_arguments(spec["user"])
        directory = spec["working_dir"]
        if directory is not None:
            if not os.path.isdir(directory):
                raise EngineError("config", f"working_dir {directory!r} is not a directory")
            argv += ["--chdir", directory]
        env = {key: os.environ[key] for key in INHERITED if key in os.environ}
        return [*argv, "--", *workload_argv(spec)], {**env, **spec["env"]}
