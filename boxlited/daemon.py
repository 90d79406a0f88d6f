"""Composition root: config -> lock -> spawner -> store -> supervisor -> api.

Owns readiness, watchdog, signals and the order of shutdown: the API first, then the
supervisor, then the store. Shims live on. No state outlives `run_daemon`.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path

import structlog
import trio

from boxlited import __version__, sdnotify
from boxlited.api.listeners import (
    Listener,
    check_listeners,
    inherited,
    listen_tcp,
    listen_unix,
    read_only_path,
)
from boxlited.api.server import ApiServer
from boxlited.config import Config
from boxlited.errors import DatabaseError, StartupError
from boxlited.failpoints import hit
from boxlited.homelock import acquire
from boxlited.model import EventDraft, EventKind
from boxlited.ownership import check_home, check_socket_directory
from boxlited.stdio import say_error
from boxlited.store.store import Store, StoreOpening
from boxlited.supervisor import hostetc
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.controlkey import load_or_make
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.kernel import Kernel
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.supervisor import Supervisor

EX_OSERR = 71
LEAST_FILES = 256
SHUTDOWN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = structlog.get_logger()


def run_daemon(config: Config, on_ready: Callable[[list[str]], None] | None = None) -> None:
    """Serve until a signal ends it. Raises StartupError when it cannot start.

    `on_ready` is called with the addresses once the daemon answers.
    """
    answering: list[str] = []

    def note(addresses: list[str]) -> None:
        answering.extend(addresses)
        if on_ready is not None:
            on_ready(addresses)

    try:
        _run(config, note)
    except (OSError, BaseExceptionGroup) as error:
        refused = None if answering else _first_os_error(error)  # a later one is a bug, and told as one
        if refused is None:
            raise
        where = f" ({refused.filename})" if refused.filename else ""
        raise StartupError(
            f"cannot start: {refused.strerror or refused}{where}; boxes live on. The next start may find it better:"
            " see what the host is short of",
            EX_OSERR,
        ) from error


def _first_os_error(error: BaseException) -> OSError | None:
    """When there is nothing but OSErrors."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [_first_os_error(one) for one in error.exceptions]
        return inner[0] if all(inner) else None
    return None


def _run(config: Config, on_ready: Callable[[list[str]], None]) -> None:
    os.umask(0o077)
    hit("daemon.begin")
    notifier, handed_over = sdnotify.Notifier.from_env(), inherited(os.environ)
    sdnotify.forget_manager()
    files = _raise_file_limit()
    kernel = Kernel()
    home = HomeLayout(Path(config.home))
    check_home(home.home)
    if not os.path.lexists(home.home) and not _is_any_within(_own_paths(config, handed_over), home.home):
        _check_listeners(config, handed_over)  # a start that is refused leaves no home behind that nobody had before
    _prepare_home(home)
    lock_fd = acquire(home.lock_file, kernel)
    try:
        hit("daemon.after_lock")
        _check_listeners(config, handed_over)
        cgroups = Cgroups.detect(home=home.home)
        store = Store.at(home.database)
        control_key = load_or_make(home.control_key)
        supervisor = Supervisor(config, kernel, home, store, cgroups, lock_fd, {"nofile": files}, control_key)
        _launch_spawner(supervisor)  # no thread exists yet
        trio.run(partial(_serve, config, store, supervisor, handed_over, notifier, on_ready))
    finally:
        os.close(lock_fd)


def _launch_spawner(supervisor: Supervisor) -> None:
    try:
        supervisor.launch_spawner()
    except OSError as error:
        raise StartupError(
            f"cannot start the process that forks boxes: {error.strerror}: this user has too many open files or"
            " processes; raise the limit (ulimit -n, ulimit -u, TasksMax=)",
            EX_OSERR,
        ) from error


async def _serve(
    config: Config,
    store: Store,
    supervisor: Supervisor,
    handed_over: list[Listener],
    notifier: sdnotify.Notifier,
    on_ready: Callable[[list[str]], None],
) -> None:
    stop = trio.Event()
    with trio.open_signal_receiver(*SHUTDOWN_SIGNALS) as signals:
        async with trio.open_nursery() as store_nursery:
            store_nursery.start_soon(_hear_signals, signals, stop)
            opening = await store_nursery.start(store.run)
            async with trio.open_nursery() as supervisor_nursery:
                recover = partial(supervisor.run, database_lost=opening.rebuilt)
                await supervisor_nursery.start(recover)
                hit("daemon.after_recovery")
                if opening.rebuilt:
                    await _finish_rebuild(store, opening)
                    hit("daemon.after_rebuild")
                await _note(store, EventKind.DAEMON_STARTED)
                hit("daemon.before_api")
                listeners = _listeners(config, handed_over)
                server = ApiServer(
                    supervisor,
                    listeners,
                    max_upload_bytes=config.files.max_bytes,
                    stop_seconds=config.stop.default_timeout_seconds,
                    home=config.home,
                )
                await _serve_api(config, supervisor, server, notifier, stop, on_ready)
                await _note(store, EventKind.DAEMON_STOPPED)
                supervisor_nursery.cancel_scope.cancel()
            store_nursery.cancel_scope.cancel()
    log.info("stopped; boxes live on" if config.shutdown.on_stop == "keep" else "stopped")


async def _serve_api(
    config: Config,
    supervisor: Supervisor,
    server: ApiServer,
    notifier: sdnotify.Notifier,
    stop: trio.Event,
    on_ready: Callable[[list[str]], None],
) -> None:
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(server.serve)
        gc.collect()
        gc.freeze()
        notifier.ready()
        nursery.start_soon(sdnotify.watchdog, notifier, lambda: supervisor.is_ready)
        log.info("ready", addresses=addresses, version=__version__, pid=os.getpid())
        on_ready(addresses)
        await stop.wait()
        drains = config.shutdown.on_stop == "drain"
        notifier.stopping("are drained" if drains else "live on")
        if drains:
            await supervisor.stop_all(config.shutdown.grace_seconds)
        server.stop()
        nursery.cancel_scope.cancel()


def _listeners(config: Config, handed_over: list[Listener]) -> list[Listener]:
    """What the service manager handed over, and our own where it left that out."""
    own = _own_paths(config, handed_over)
    listeners = handed_over + [
        listen_unix(path, read_only=read_only, group=config.api.group) for path, read_only in own.items()
    ]
    if config.api.listen is not None:
        if config.api.token_file is None:
            raise StartupError("--listen needs --token-file: a TCP listener without a token is refused", 78)
        listeners.append(listen_tcp(config.api.listen, Path(config.api.token_file)))
    return listeners


async def _hear_signals(signals: AsyncIterator[int], stop: trio.Event) -> None:
    """To the very end: one that nobody took would end the process in the midst of its clean-up."""
    async for number in signals:
        log.info("stopping already" if stop.is_set() else "stopping", signal=signal.Signals(number).name)
        stop.set()


def _check_listeners(config: Config, handed_over: list[Listener]) -> None:
    """Before recovery: a daemon that could not be reached must not start boxes, again and again."""
    token_file = Path(config.api.token_file) if config.api.token_file is not None else None
    own = _own_paths(config, handed_over)
    check_listeners(own, config.api.listen, token_file)
    for directory in {path.parent for path in own}:
        check_socket_directory(directory)


def _own_paths(config: Config, handed_over: list[Listener]) -> dict[Path, bool]:
    """The unix sockets that we make ourselves, and whether each is read-only."""
    path = Path(config.socket)
    if not handed_over:
        return {path: False, read_only_path(path): True}
    return {path: False} if all(listener.read_only for listener in handed_over) else {}


def _is_any_within(paths: Iterable[Path], directory: Path) -> bool:
    return any(path.is_relative_to(directory) for path in paths)


async def _note(store: Store, kind: EventKind) -> None:
    await store.append_event(EventDraft(kind=kind, data={"pid": os.getpid(), "version": __version__}))


async def _finish_rebuild(store: Store, opening: StoreOpening) -> None:
    """Until this is durable, a directory without a row is a box whose row was lost."""
    event = None
    if opening.set_aside is not None:
        event = EventDraft(kind=EventKind.DATABASE_REBUILT, data={"set_aside": str(opening.set_aside)})
    try:
        await store.finish_rebuild(event)
    except DatabaseError as error:
        log.error("the next start rebuilds the table again", error=error.message)


def _prepare_home(home: HomeLayout) -> None:
    try:
        Directories(home).prepare_home()
        home.database_dir.mkdir(mode=0o700, exist_ok=True)
        hostetc.sync(home.etc_dir)
    except OSError as error:
        cause = "is no directory" if isinstance(error, FileExistsError) else error.strerror
        path = error.filename or home.home
        raise StartupError(
            f"cannot use the home {home.home}: {path}: {cause}; give another with --home or BOXLITED_HOME", 73
        ) from error


def _raise_file_limit() -> tuple[int, int]:
    """Each live box costs one descriptor (its pidfd). Returns the limit as it was: boxes get that one,
    because programs that use select() break above 1024. Raises StartupError where nothing could work."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < LEAST_FILES:
        raise StartupError(
            f"only {hard} open files are allowed: at least {LEAST_FILES} are needed, and one more for"
            " each box that runs; raise the limit (ulimit -Hn, LimitNOFILE=)",
            EX_OSERR,
        )
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def main_guard(run: Callable[[], None]) -> int:
    """Run, and turn a start-up error into one line and its exit code."""
    try:
        run()
    except (StartupError, BaseExceptionGroup) as error:
        startup = _startup_error(error)
        if startup is None:
            raise
        say_error(f"boxlited: {startup.message}")
        return startup.exit_code
    return 0


def _startup_error(error: BaseException) -> StartupError | None:
    """The start-up error inside, when there is nothing but start-up errors."""
    if isinstance(error, StartupError):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [_startup_error(one) for one in error.exceptions]
        if inner and all(inner):
            return inner[0]
    return None
