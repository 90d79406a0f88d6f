"""Engine `sandbox`: bubblewrap with namespaces of its own, as root and as an ordinary user.

Private pid, ipc, uts, user, cgroup and (unless asked for) net namespaces; own /tmp, /proc
and /dev; no new privileges; no capabilities but those asked for. The root is the host's /usr
read-only with a private home, or a directory below a copy-on-write layer.

Where the daemon is root, uid 0 of a box is the host's root without capabilities, and the kernel
asks for no more than that uid to write a sysctl or a cgroup's limit, or to read what of /proc is
root's alone. So /proc/sys is read-only, the latter is covered, and no user namespace can be made
inside, which would give the capability to mount a cgroup.
"""

import os

from boxlited.shim import seccomp
from boxlited.shim.engines.base import Engine, EngineError, workload_argv
from boxlited.shim.mountpoints import refuse_links
from boxlited.shim.users import identity_arguments, resolve

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME = "/root"
HOST_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
NETWORK_ETC = ("resolv.conf", "hosts")
NAMES_OF_KEYS = "keys"  # of the whole host's user, whatever the namespace
ROOTS_OWN = ("timer_list", "slabinfo", "kpagecount", "kpageflags", "kpagecgroup", "vmallocinfo", "pagetypeinfo")
HIDDEN = tuple(
    f"/proc/{name}"
    for name in (NAMES_OF_KEYS, *(ROOTS_OWN if os.geteuid() == 0 else ()))
    if os.path.exists(f"/proc/{name}")
)


def _beside_usr() -> list[str]:
    """The host's /bin, /lib and so on: links into /usr, or directories of their own."""
    argv: list[str] = []
    for path in (f"/{name}" for name in HOST_LINKS):
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            argv += ["--ro-bind", path, path]
    return argv


BESIDE_USR = tuple(_beside_usr())


class SandboxEngine(Engine):
    name = "sandbox"
    wishes = frozenset({"rootfs_path", "volumes"})

    def check(self, spec: dict) -> None:  # type: ignore[type-arg]
        rootfs = spec["rootfs"]
        if rootfs["kind"] != "host" and not os.path.isdir(rootfs["path"]):
            raise EngineError("config", f"rootfs_path {rootfs['path']!r} is not a directory")
        for volume in spec["volumes"]:
            refuse_links(volume["guest_path"], _writable(spec))
            _check_volume(volume["host_path"])

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
        argv += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
        for path in HIDDEN:
            argv += ["--ro-bind", "/dev/null", path]
        argv += ["--dev", "/dev", "--tmpfs", "/dev/shm", "--bind", spec["paths"]["tmp"], "/tmp"]
        for volume in spec["volumes"]:
            argv += ["--ro-bind" if volume["read_only"] else "--bind", volume["host_path"], volume["guest_path"]]
        argv += ["--chdir", self.directory(spec)]
        return [*argv, "--", *workload_argv(spec)], self.environment(spec)

    def confine(self, spec: dict) -> None:  # type: ignore[type-arg]
        try:
            seccomp.install(network=spec["network"])
        except OSError as error:
            raise EngineError("engine", f"the kernel takes no filter of system calls: {error.strerror}") from None

    def environment(self, spec: dict) -> dict[str, str]:  # type: ignore[type-arg]
        env = {"PATH": PATH, "HOME": HOME, "TERM": "xterm", "HOSTNAME": spec["hostname"], "LANG": "C.UTF-8"}
        return {**env, **spec["env"]}

    def directory(self, spec: dict) -> str:  # type: ignore[type-arg]
        return spec["working_dir"] or (HOME if spec["rootfs"]["kind"] == "host" else "/")

    def identity(self, spec: dict) -> tuple[int, int]:  # type: ignore[type-arg]
        return (0, 0) if spec["user"] is None else resolve(spec["user"])


def _capabilities(capabilities: dict) -> list[str]:  # type: ignore[type-arg]
    """Everything is dropped, what was asked for is added, what was named to drop goes; bubblewrap checks the names.

    A capability is one over the box's own namespaces, so it is void in a further user namespace:
    only a box without any can be kept from making those.
    """
    argv = ["--cap-drop", "ALL"]
    for name in capabilities["add"]:
        argv += ["--cap-add", _capability(name)]
    for name in capabilities["drop"]:
        if _capability(name) != "ALL":  # dropped first: it does not undo what was added
            argv += ["--cap-drop", _capability(name)]
    return argv if capabilities["add"] else [*argv, "--disable-userns"]


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _root(spec: dict) -> list[str]:  # type: ignore[type-arg]
    rootfs, paths = spec["rootfs"], spec["paths"]
    if rootfs["kind"] == "host":
        return _host_root(paths, network=spec["network"])
    return ["--overlay-src", rootfs["path"], "--overlay", paths["upper"], paths["work"], "/"]


def _host_root(paths: dict[str, str], *, network: bool) -> list[str]:
    """/usr of the host, the home's copy of what everyone may read in /etc, and a private writable home."""
    argv = ["--ro-bind", "/usr", "/usr", *BESIDE_USR, "--ro-bind", paths["etc"], "/etc"]
    for name in NETWORK_ETC if network else ():
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    argv += ["--tmpfs", "/run", "--dir", "/var/tmp", "--symlink", "../run", "/var/run"]
    return [*argv, "--bind", paths["upper"], HOME]


def _writable(spec: dict) -> dict[str, list[str]]:  # type: ignore[type-arg]
    """Where the box itself can have left something, and the host's directories behind it."""
    paths, rootfs = spec["paths"], spec["rootfs"]
    home = {HOME: [paths["upper"]]} if rootfs["kind"] == "host" else {"/": [paths["upper"], rootfs["path"]]}
    return {**home, "/tmp": [paths["tmp"]]}


def _check_volume(source: str) -> None:
    try:
        os.stat(source)
    except FileNotFoundError:
        raise EngineError("config", f"volume {source!r} does not exist on the host") from None
    except OSError as error:
        raise EngineError("config", f"volume {source!r} cannot be used by the daemon: {error.strerror}") from None
