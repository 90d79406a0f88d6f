"""A third engine is one file: found by the shim, known to the config, refused what it does not wish for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boxlited

THIRD = """
from boxlited.shim.engines.base import Engine, workload_argv

class BareEngine(Engine):
    name = "bare"

    def command(self, spec, status_fd):
        return workload_argv(spec), spec["env"]
"""
USE = """
import sys
from pathlib import Path
from boxlited.config import check_config
from boxlited.shim.engines import ENGINES, engine_of
print(sorted(ENGINES), check_config(Path(sys.argv[1])))
print(engine_of({"engine": "bare"}).command({"argv": ["/bin/true"], "env": {}}, 5))
"""


def test_a_third_engine_is_one_file(tmp_path: Path) -> None:
    source = Path(boxlited.__file__).parent
    shutil.copytree(source, tmp_path / "boxlited", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "boxlited/shim/engines/bare.py").write_text(THIRD)
    (tmp_path / "c.toml").write_text("[engines]\nenabled = ['sandbox', 'bare']\ndefault = 'bare'\n")
    run = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "c.toml")],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.stdout.splitlines() == ["['bare', 'process', 'sandbox'] []", "(['/bin/true'], {})"], run.stderr
