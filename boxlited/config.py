"""TOML and environment -> frozen `Config`. Every error names file, key and allowed values.

Owns all defaults. Reads; creates nothing. Order: command line, environment, file, default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import tomli
from msgspec import Meta

from boxlited.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
Positive = Annotated[float, Meta(gt=0, le=86400)]
Count = Annotated[int, Meta(ge=1)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables: an unknown key is an error."""


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
    enabled: tuple[Literal["sandbox", "process"], ...] = ("sandbox",)
    default: str = "sandbox"
    external: dict[str, External] = {}


class Limits(Table, frozen=True, kw_only=True):
    mode: Literal["best-effort", "strict"] = "best-effort"
    max_boxes: Count | None = None
    max_running: Count | None = None


class Logs(Table, frozen=True, kw_only=True):
    max_bytes: Annotated[int, Meta(ge=4096)] = 10 * 1024 * 1024
    keep: Annotated[int, Meta(ge=0, le=100)] = 2


class Quarantine(Table, frozen=True, kw_only=True):
    grace_seconds: Annotated[float, Meta(ge=0)] = 7 * 86400.0


class Events(Table, frozen=True, kw_only=True):
    keep: Annotated[int, Meta(ge=1000)] = 100_000


class Stop(Table, frozen=True, kw_only=True):
    default_timeout_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0


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


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """/var/lib/boxlited for root, the user's data directory otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/boxlited")
    data = environ.get("XDG_DATA_HOME")
    return Path(data) / "boxlited" if data else Path.home() / ".local/share/boxlited"


def default_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """/run/boxlited for root, the user's runtime directory otherwise."""
    if os.geteuid() == 0:
        return Path("/run/boxlited/boxlited.sock")
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "boxlited/boxlited.sock"
    return Path.home() / ".local/share/boxlited/boxlited.sock"


def load_config(
    file: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    listen: str | None = None,
    token_file: str | None = None,
    **overrides: str | None,
) -> Config:
    """The effective configuration. Raises ConfigError with the first problem."""
    path = file or _config_file(environ)
    config = Config()
    if path is not None:
        content = _read(path)
        problems = _problems(content, str(path))
        if problems:
            raise ConfigError(problems[0])
        config = msgspec.convert(content, Config)
    chosen = {key: environ.get(f"BOXLITED_{key.upper()}") for key in ("home", "socket", "log_level", "log_format")}
    chosen |= {key: value for key, value in overrides.items() if value is not None}
    content = msgspec.to_builtins(config) | {key: value for key, value in chosen.items() if value}
    content["home"] = content["home"] or str(default_home(environ))
    content["socket"] = content["socket"] or str(default_socket(environ))
    for key, value in (("listen", listen), ("token_file", token_file)):
        if value is not None:
            content["api"][key] = value
    problems = _problems(content, "command line or environment")
    if problems:
        raise ConfigError(problems[0])
    return _checked(msgspec.convert(content, Config))


def _config_file(environ: Mapping[str, str]) -> Path | None:
    """BOXLITED_CONFIG, else the system's or the user's own file where it exists."""
    named = environ.get("BOXLITED_CONFIG")
    if named:
        return Path(named)
    base = Path("/etc") if os.geteuid() == 0 else Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = base / "boxlited/boxlited.toml"
    return path if path.exists() else None


def check_config(file: Path) -> list[str]:
    """Everything that is wrong with a file, one line each; [] when nothing is."""
    try:
        content = _read(file)
        problems = _problems(content, str(file))
        if not problems:
            _checked(msgspec.convert(content, Config))
    except ConfigError as error:
        return [error.message]
    return problems


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomli.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _problems(content: Mapping[str, Any], source: str) -> list[str]:
    """Every problem of every key, not only the first."""
    return _check_table(content, Config, source, "")


def _check_table(content: Mapping[str, Any], table: type[Table], source: str, prefix: str) -> list[str]:
    problems: list[str] = []
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    for key, value in content.items():
        dotted = f"{prefix}{key}"
        if key not in fields:
            problems.append(f"{source}: unknown key '{dotted}'{_suggest(key, fields)}")
            continue
        kind = fields[key].type
        if isinstance(kind, type) and issubclass(kind, Table) and isinstance(value, Mapping):
            problems += _check_table(value, kind, source, f"{dotted}.")
            continue
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            problems.append(f"{source}: {dotted} = {value!r}: {_explain(error, kind)}")
    return problems


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known here: {', '.join(sorted(known))}"


def _explain(error: msgspec.ValidationError, kind: Any) -> str:
    allowed = [repr(value) for value in _literals(kind)]
    if allowed:
        return f"must be one of {', '.join(allowed)}"
    return str(error).replace("`", "'")


def _literals(kind: Any) -> tuple[Any, ...]:
    arguments = get_args(kind)
    if getattr(kind, "__origin__", None) is Literal:
        return arguments
    found: tuple[Any, ...] = ()
    for argument in arguments:
        found += _literals(argument)
    return found


def _checked(config: Config) -> Config:
    """What no single key can say."""
    for key in ("home", "socket"):
        value = getattr(config, key)
        if value and not os.path.isabs(value):
            config = msgspec.structs.replace(config, **{key: os.path.abspath(value)})
    if len(os.fsencode(config.socket)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"socket = {config.socket!r} is longer than {MAX_SOCKET_PATH_BYTES} bytes, which the kernel does not"
            " allow: choose a shorter path"
        )
    engines = config.engines
    known = sorted({*engines.enabled, *engines.external})
    if engines.default not in known:
        raise ConfigError(f"engines.default = {engines.default!r}: must be one of the enabled: {', '.join(known)}")
    clash = {"sandbox", "process"} & set(engines.external)
    if clash:
        raise ConfigError(f"engines.external.{clash.pop()}: this name is taken by an engine of our own")
    return config
