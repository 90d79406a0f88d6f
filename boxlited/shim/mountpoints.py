"""Where a volume is mounted in a box: never through a symbolic link that the box may have made.

bubblewrap makes a missing mount point by its path, and follows links while the host's root is
still within its sight: a link left in the home by an earlier run would have it make a directory
on the host. No process of the box lives while this looks. Standard library only.
"""

import os

from boxlited.shim.engines.base import EngineError


def refuse_links(guest_path: str, layers: dict[str, list[str]]) -> None:
    """Raise EngineError when a component of `guest_path` is a link in what the box can write.

    `layers`: mount point in the box -> the host's directories that it is made of.
    """
    for mount, directories in sorted(layers.items(), reverse=True):  # the innermost mount first
        below = _below(guest_path, mount)
        if below is None:
            continue
        for directory in directories:
            path = directory
            for name in below:
                path = f"{path}/{name}"
                if os.path.islink(path):
                    raise EngineError(
                        "config",
                        f"volume {guest_path!r} would be mounted through the symbolic link {name!r} inside the box:"
                        " remove the link, or give the path that it leads to",
                    )
        return


def _below(path: str, mount: str) -> list[str] | None:
    """The names of `path` below `mount`; None when it is not there."""
    names = [name for name in path.split("/") if name]
    prefix = [name for name in mount.split("/") if name]
    return names[len(prefix) :] if names[: len(prefix)] == prefix else None
