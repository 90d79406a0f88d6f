"""Every seed of every fuzz target, and everything that fuzzing once found (`found-…`), keeps its promise."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
SEEDS = sorted(path for path in (FUZZ / "seeds").glob("*/*"))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_seed_keeps_the_promise_of_its_target(seed: Path) -> None:
    target = importlib.import_module(f"tests.fuzz.targets.{seed.parent.name}")
    target.check(seed.read_bytes())


def test_every_target_has_seeds() -> None:
    targets = {path.stem for path in (FUZZ / "targets").glob("*.py") if not path.stem.startswith("_")}
    assert {path.parent.name for path in SEEDS} == targets
