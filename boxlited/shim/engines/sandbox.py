"""Engine `sandbox`: bubblewrap with namespaces of its own, as root and as an ordinary user.

Private pid, ipc, uts, user, cgroup and (unless asked for) net namespaces; own /tmp, /proc
and /dev; no new privileges; no capabilities but those asked for. The root is the host's /usr
read-only with a private home, or a directory below a copy-on-write layer.
"""

import os

from boxlited.shim.engines.base import Engine, EngineError, workload_argv
from boxlited.shim.users import identity_arguments

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME = "/root"
HOST_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
NETWORK_ETC = ("resolv.conf", "hosts")


class SandboxEngine(Engine):
    name = "sandbox"
    wishes = frozenset({"rootfs_path", "volumes"})

    def command(self, spec: dict, status_fd: int) -> tuple[list[str], dict[str, str]]:  # type: ignore[type-arg]
        argv = [spec["bwrap"], "--die-with-parent", "--json-status-fd", str(status_fd)]
        argv += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        argv += identity_arguments(spec["user"]) or ["--unshare-user", "--uid", "0", "--gid", "0"]
        if not spec["network"]:
            argv.append("--unshare-net")
        if not spec["tty"]:
            argv.append("--new-session")
        argv += ["--hostname", spec["hostname"]]
        argv += _capabilities(spec["capabilities"])
        argv += _root(spec)
        argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--bind", spec["paths"]["tmp"], "/tmp"]
        for volume in spec["volumes"]:
            argv += _volume(volume)
        argv += ["--chdir", spec["working_dir"] or _default_directory(spec)]
        env = {"PATH": PATH, "HOME": HOME, "TERM": "xterm", "HOSTNAME": spec["hostname"], "LANG": "C.UTF-8"}
        return [*argv, "--", *workload_argv(spec)], {**env, **spec["env"]}


def _capabilities(capabilities: dict) -> list[str]:  # type: ignore[type-arg]
    """Everything is dropped, then what was asked for is added; bubblewrap checks the names."""
    argv = ["--cap-drop", "ALL"]
    dropped = {_capability(name) for name in capabilities["drop"]}
    for name in capabilities["add"]:
        if _capability(name) not in dropped:
            argv += ["--cap-add", _capability(name)]
    return argv


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _root(spec: dict) -> list[str]:  # type: ignore[type-arg]
    rootfs, paths = spec["rootfs"], spec["paths"]
    if rootfs["kind"] == "host":
        return _host_root(paths, network=spec["network"])
    if not os.path.isdir(rootfs["path"]):
        raise EngineError("config", f"rootfs_path {rootfs['path']!r} is not a directory")
    return ["--overlay-src", rootfs["path"], "--overlay", paths["upper"], paths["work"], "/"]


def _host_root(paths: dict[str, str], *, network: bool) -> list[str]:
    """/usr of the host, the home's copy of what everyone may read in /etc, and a private writable home."""
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in HOST_LINKS:
        path = f"/{name}"
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            argv += ["--ro-bind", path, path]
    argv += ["--ro-bind", paths["etc"], "/etc"]
    for name in NETWORK_ETC if network else ():
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    argv += ["--tmpfs", "/run", "--dir", "/var/tmp", "--symlink", "../run", "/var/run"]
    return [*argv, "--bind", paths["upper"], HOME]


def _default_directory(spec: dict) -> str:  # type: ignore[type-arg]
    return HOME if spec["rootfs"]["kind"] == "host" else "/"


def _volume(volume: dict) -> list[str]:  # type: ignore[type-arg]
    source = volume["host_path"]
    if not os.path.exists(source):
        raise EngineError("config", f"volume {source!r} does not exist on the host")
    return ["--ro-bind" if volume["read_only"] else "--bind", source, volume["guest_path"]]
