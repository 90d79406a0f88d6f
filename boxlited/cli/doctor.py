"""boxctl doctor: can this host run boxes well? Needs no daemon."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from typing import Annotated

import typer

from boxlited.cli import checks, escape, exits
from boxlited.cli.checks import Check, Level
from boxlited.cli.options import Format, FormatOption, session_of
from boxlited.cli.session import say

_COLOURS = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not well.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Check this host: kernel, sandbox, cgroups, disk, socket; say what to do about the rest."""
    found = examine(session_of(context).socket)
    if format is Format.JSON:
        say(json.dumps([{**check._asdict(), "level": check.level.value} for check in found], indent=2))
    else:
        for line in report(found, quiet=quiet, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ):
            say(line)
    failed = any(check.level is Level.FAIL for check in found)
    raise typer.Exit(exits.FAILED if failed else exits.OK)


def examine(socket: str | None) -> list[Check]:
    """Every check of this host, in the order in which they are worth reading."""
    from boxlited.cli import probes  # ctypes, subprocess, sockets: no other command needs them

    release = platform.release()
    cgroup_facts = probes.cgroups(release)
    socket_facts = probes.daemon_socket(socket)
    home_facts = probes.home(socket_facts.home)
    found = [
        checks.python(tuple(sys.version_info[:3])),
        checks.kernel(release),
        checks.pidfd_open(probes.pidfd_open_errno()),
        checks.pidfd_inode(probes.pidfds_have_inodes()),
        checks.exit_info(probes.exit_info_available()),
        checks.sandbox(probes.bwrap(), os.geteuid() == 0),
        checks.cgroups(cgroup_facts),
        checks.cgroup_kill(cgroup_facts),
        checks.unit(probes.unit_properties()),
        checks.home(home_facts),
        checks.disk(home_facts),
        checks.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        checks.socket(socket_facts),
    ]
    return [check for check in found if check is not None]


def report(found: list[Check], *, quiet: bool, colour: bool) -> list[str]:
    """A line for each check, one more for advice, and a count."""
    lines = []
    for check in found:
        if quiet and check.level is Level.OK:
            continue
        mark = f"{check.level.value:<4}"
        if colour:
            mark = f"\x1b[{_COLOURS[check.level]}m{mark}\x1b[0m"
        lines.append(f"{mark}  {check.name:<13} {escape.line(check.message)}")
        if check.advice:
            lines.append(f"      {'':<13} -> {escape.line(check.advice)}")
    counts = {level: sum(check.level is level for check in found) for level in Level}
    lines.append(", ".join(f"{count} {level.value}" for level, count in counts.items()))
    return lines
