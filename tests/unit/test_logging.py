"""The daemon's own log: one line an entry, and a line that cannot be written harms nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from boxlited.logs import configure_logging


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@contextmanager
def standard_error(fd: int) -> Iterator[None]:
    saved = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_that_cannot_be_written_harms_nobody(log_format: str) -> None:
    configure_logging(log_format, "info")
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for fd in (full, writing):
            with standard_error(fd):
                for _ in range(3):
                    structlog.get_logger().warning("x" * 100_000)
    finally:
        os.close(writing)
        os.close(full)


def test_each_entry_is_one_line_of_json_whatever_it_holds(tmp_path: Path) -> None:
    configure_logging("json", "info")
    hostile = "a\nb\x1b[31m\udcff\u2028" + "x" * 100_000
    with open(tmp_path / "log", "wb") as file, standard_error(file.fileno()):
        structlog.get_logger().info(hostile, name=hostile)
        structlog.get_logger().debug("not at this level")
        try:
            raise ValueError(hostile)
        except ValueError:
            structlog.get_logger().exception("bug")
    content = (tmp_path / "log").read_bytes()
    first, second = [json.loads(line) for line in content.split(b"\n")[:-1]]
    assert first["event"] == first["name"] == hostile
    assert "ValueError" in second["exception"]
    assert b"\x1b" not in content
