"""TOML and environment -> frozen `Config`. Every error names source, key and allowed values.

Owns all defaults. Reads; creates nothing. Order: command line, environment, file, default.
Whatever the input: a Config, or one ConfigError that says everything that is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import tomli
from msgspec import Meta

from boxlited.config_tables import Table, check_table, shown
from boxlited.errors import ConfigError
from boxlited.ownership import check_config_file
from boxlited.shim.engines import ENGINES

MAX_SOCKET_PATH_BYTES = 107
FROM_ENVIRONMENT = ("home", "socket", "log_level", "log_format")
OF_API = ("listen", "token_file")
Positive = Annotated[float, Meta(gt=0, le=86400)]
if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(sorted(ENGINES))]  # as many as there are files in shim/engines
Count = Annotated[int, Meta(ge=1, le=10**9)]


class Api(Table, frozen=True, kw_only=True):
    listen: str | None = None
    token_file: str | None = None
    group: str = "boxlited"


class Reconcile(Table, frozen=True, kw_only=True):
    period_seconds: Positive = 5.0
    jitter: Annotated[float, Meta(ge=0, le=0.5)] = 0.1


class Shutdown(Table, frozen=True, kw_only=True):
    on_stop: Literal["keep", "drain"] = "keep"
    grace_seconds: Positive = 30.0


class External(Table, frozen=True, kw_only=True):
    command: Annotated[tuple[str, ...], Meta(min_length=1)]


class EnginesTable(Table, frozen=True, kw_only=True):
    enabled: tuple[EngineName, ...] = ("sandbox",)
    default: str = "sandbox"
    external: dict[str, External] = {}  # noqa: RUF012 - msgspec copies it


class Limits(Table, frozen=True, kw_only=True):
    mode: Literal["best-effort", "strict"] = "best-effort"
    max_boxes: Count | None = None
    max_running: Count | None = None


class Logs(Table, frozen=True, kw_only=True):
    max_bytes: Annotated[int, Meta(ge=4096, le=2**40)] = 10 * 1024 * 1024
    keep: Annotated[int, Meta(ge=0, le=100)] = 2


class Quarantine(Table, frozen=True, kw_only=True):
    grace_seconds: Annotated[float, Meta(ge=0)] = 7 * 86400.0


class Events(Table, frozen=True, kw_only=True):
    keep: Annotated[int, Meta(ge=1000, le=10**9)] = 100_000


class Stop(Table, frozen=True, kw_only=True):
    default_timeout_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0


class Files(Table, frozen=True, kw_only=True):
    max_bytes: Annotated[int, Meta(ge=1 << 20, le=2**50)] = 16 << 30
    max_entries: Count = 1_000_000


class Config(Table, frozen=True, kw_only=True):
    """Everything that can be set. `systemd/boxlited.toml.example` explains each key."""

    home: str = ""
    socket: str = ""
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api: Api = Api()
    reconcile: Reconcile = Reconcile()
    shutdown: Shutdown = Shutdown()
    engines: EnginesTable = EnginesTable()
    limits: Limits = Limits()
    logs: Logs = Logs()
    quarantine: Quarantine = Quarantine()
    events: Events = Events()
    stop: Stop = Stop()
    files: Files = Files()


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """/var/lib/boxlited for root, the user's data directory otherwise. Raises ConfigError."""
    if os.geteuid() == 0:
        return Path("/var/lib/boxlited")
    data = environ.get("XDG_DATA_HOME")
    return Path(data) / "boxlited" if data else _user_home() / ".local/share/boxlited"


def default_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """/run/boxlited for root, the user's runtime directory otherwise. Raises ConfigError."""
    if os.geteuid() == 0:
        return Path("/run/boxlited/boxlited.sock")
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "boxlited/boxlited.sock"
    return _user_home() / ".local/share/boxlited/boxlited.sock"


def _user_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise ConfigError(
            f"user {os.geteuid()} has no home directory: set HOME, or BOXLITED_HOME and BOXLITED_SOCKET"
        ) from error


def load_config(file: Path | None, environ: Mapping[str, str] = os.environ, **overrides: str | None) -> Config:
    """The effective configuration. Raises ConfigError with every problem, one a line.

    `overrides` are the options of the command line, by the names of their keys; None is not given.
    """
    path = file or _config_file(environ)
    content = _read(path) if path is not None else {}
    if path is not None:
        check_config_file(path)
    problems = check_table(content, Config, str(path))
    chosen = _chosen(environ, overrides)
    for key, (source, value) in chosen.items():
        problems += check_table(_placed({}, key, value), Config, source)
        if not value:
            problems.append(f"{source}: must not be empty: give a value, or leave it out")
    if not problems:
        for key, (_source, value) in chosen.items():
            content = _placed(content, key, value)
        config = _absolute(msgspec.convert(content, Config), environ)
        origins = {key: source for key, (source, _value) in chosen.items()}
        problems = _cross_problems(config, origins, str(path) if path is not None else "configuration")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _chosen(environ: Mapping[str, str], overrides: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """Key -> (source, value), the stronger source for each. An empty variable counts as unset."""
    chosen: dict[str, tuple[str, str]] = {}
    for key in FROM_ENVIRONMENT:
        name = f"BOXLITED_{key.upper()}"
        if environ.get(name):
            chosen[key] = (name, environ[name])
    for key, value in overrides.items():
        if value is not None:
            chosen[key] = (f"--{key.replace('_', '-')}", value)
    return chosen


def _placed(content: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """The content with one more key, in the table where it belongs."""
    if key in OF_API:
        return {**content, "api": {**content.get("api", {}), key: value}}
    return {**content, key: value}


def _config_file(environ: Mapping[str, str]) -> Path | None:
    """BOXLITED_CONFIG, else the system's or the user's own file where it exists."""
    named = environ.get("BOXLITED_CONFIG")
    if named:
        return Path(named)
    try:
        base = Path("/etc") if os.geteuid() == 0 else Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        path = base / "boxlited/boxlited.toml"
        path.stat()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: this user has no home
        return None
    except OSError as error:  # not being allowed to look is not the same as no file
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return path


def check_config(file: Path) -> list[str]:
    """Everything that is wrong with a file, one line each; [] when nothing is."""
    try:
        content = _read(file)
    except ConfigError as error:
        return [error.message]
    problems = check_table(content, Config, str(file))
    return problems or _cross_problems(msgspec.convert(content, Config), {}, str(file))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return _expanded(tomli.load(stream))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not valid TOML: not UTF-8 (at line {line})") from error
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond any use
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _expanded(content: dict[str, Any]) -> dict[str, Any]:
    """`limits = "strict"` is short for a table with that mode."""
    limits = content.get("limits")
    return {**content, "limits": {"mode": limits}} if isinstance(limits, str) else content


def _absolute(config: Config, environ: Mapping[str, str]) -> Config:
    """The defaults that depend on the user; relative paths begin at the working directory."""
    try:
        home = os.path.abspath(config.home or default_home(environ))
        socket = os.path.abspath(config.socket or default_socket(environ))
    except OSError as error:
        raise ConfigError(f"a path is relative and the working directory is gone: {error.strerror}") from error
    return msgspec.structs.replace(config, home=home, socket=socket)


def _cross_problems(config: Config, origins: Mapping[str, str], file: str) -> list[str]:
    """What no single key can say."""
    problems = []
    if len(os.fsencode(config.socket)) > MAX_SOCKET_PATH_BYTES:
        problems.append(
            f"{origins.get('socket', file)}: socket = {config.socket!r} is longer than {MAX_SOCKET_PATH_BYTES} bytes,"
            " which the kernel does not allow: choose a shorter path"
        )
    if config.socket == "/":
        problems.append(f"{origins.get('socket', file)}: socket = '/': must name a file")
    engines = config.engines
    known = sorted({*engines.enabled, *engines.external})
    if engines.default not in known:
        allowed = ", ".join(map(shown, known))
        problems.append(f"{file}: engines.default = {shown(engines.default)}: must be one of the enabled: {allowed}")
    for name in sorted(set(ENGINES) & set(engines.external)):
        problems.append(f"{file}: engines.external.{name}: this name is taken by an engine of our own")
    if config.api.listen is not None and config.api.token_file is None:
        problems.append(
            f"{origins.get('listen', file)}: api.listen needs api.token_file: a TCP listener without a token is refused"
        )
    if config.api.listen is None and "token_file" in origins:
        problems.append(f"{origins['token_file']}: nobody is asked for a token without --listen HOST:PORT")
    return problems
