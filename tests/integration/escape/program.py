"""The attempts as one program for `python3 -c`: a box has the host's own Python, and no file of ours."""

from __future__ import annotations

from pathlib import Path

PARTS = ("calls", "mounts", "processes", "rights", "network", "host")  # tried in this order
LOADER = """
import sys, types
for name, text in PARTS:
    sys.modules[name] = part = types.ModuleType(name)
    exec(compile(text, name, "exec"), part.__dict__)
sys.modules[PARTS[0][0]].main()
"""


def program() -> str:
    """Standard library only. What it is given as its argument is JSON, and what it prints is too."""
    here = Path(__file__).parent
    parts = [(f"{__package__}.{name}", (here / f"{name}.py").read_text()) for name in PARTS]
    return f"PARTS = {parts!r}{LOADER}"
