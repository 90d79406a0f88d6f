"""`python -m tests.fuzz.run TARGET [libFuzzer options]`: one target under atheris, beginning with its seeds.

What is found stays in `tests/fuzz/findings/`, new inputs in `tests/fuzz/corpus/`; neither is committed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
from pathlib import Path

import atheris
import structlog

HERE = Path(__file__).parent
TARGETS = sorted(file.stem for file in (HERE / "targets").glob("*.py") if not file.stem.startswith("_"))


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run {'|'.join(TARGETS)} [-max_total_time=SECONDS]")
    name = sys.argv.pop(1)
    logging.disable()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["boxlited"]):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    corpus, findings, seeds = HERE / "corpus" / name, HERE / "findings", HERE / "seeds" / name
    for directory in (corpus, findings, seeds):
        directory.mkdir(parents=True, exist_ok=True)
    options = [
        f"-artifact_prefix={findings}/{name}-",
        "-print_final_stats=1",
        "-timeout=20",
        f"-dict={HERE / 'words.dict'}",
    ]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(corpus), str(seeds)], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
