"""The log of a run: one line a step, with times; and the counts that the end reports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Steps:
    """Prints as things happen; run pytest with `-s` to see it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.counts: Counter[str] = Counter()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        print(f"{self.seconds:7.1f} s           {text}", flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what was done and how long it took; or that it failed, and where."""
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            self._line(began, f"{what}: FAILED: {type(error).__name__}: {str(error)[:300]}")
            raise
        self._line(began, what)

    def _line(self, began: float, text: str) -> None:
        print(f"{self.seconds:7.1f} s +{time.monotonic() - began:5.1f} s  {text}", flush=True)
