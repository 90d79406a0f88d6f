"""A box that does as it is told, line by line, while a test looks on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.integration.daemon_harness import Daemon, until

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.3\n"
ENGINES = ["sandbox", "process"]
# Obeys what is written to its pipe, line by line; "$1" is its directory as the host knows it.
PUPPET = 'mkfifo -m 600 "$0"; while :; do while read -r line; do eval "$line"; done <"$0"; done'


def puppet(daemon: Daemon, engine: str) -> dict[str, Any]:
    """A running box that does as it is told. Its pipe is where both it and we can see it."""
    name = f"puppet-{os.urandom(4).hex()}"
    pipe = "/root/do" if engine == "sandbox" else str(daemon.root / name)
    box = daemon.run(["/bin/sh", "-c", PUPPET, pipe], engine=engine, name=name)
    own = daemon.box_dir(box["box_id"])
    box["pipe"] = own / "upper/do" if engine == "sandbox" else Path(pipe)
    until(box["pipe"].exists, "the puppet listens")
    tell(box, f"set -- {own}")
    return box


def tell(box: dict[str, Any], *lines: str) -> None:
    with box["pipe"].open("w") as pipe:
        pipe.write("".join(f"{line}\n" for line in lines))


def do(daemon: Daemon, box: dict[str, Any], *lines: str) -> None:
    """As `tell`, and wait until it was done."""
    mark = f"done-{os.urandom(4).hex()}"
    tell(box, *lines, f"echo {mark}")
    until(lambda: mark.encode() in b"".join(daemon.client.logs(box["box_id"])), f"the box does {lines}")
