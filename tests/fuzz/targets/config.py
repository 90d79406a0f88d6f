"""The config file: what `check-config` passes is served, and every problem is a readable line."""

from __future__ import annotations

import os

from boxlited.config import Config, check_config, load_config
from boxlited.errors import ConfigError
from tests.fuzz.scratch import scratch

FILE = scratch() / "boxlited.toml"
ENVIRONMENT = {"HOME": "/home/nobody", "XDG_RUNTIME_DIR": "/run/nobody"}


def check(data: bytes) -> None:
    FILE.write_bytes(data)
    os.chmod(FILE, 0o600)
    problems = check_config(FILE)
    for line in problems:
        assert line.isprintable(), line
        assert len(line) < 2000, line
    try:
        config = load_config(FILE, ENVIRONMENT)
    except ConfigError as error:
        assert problems, error.message
    else:
        assert not problems
        assert isinstance(config, Config)
        assert config.home.startswith("/")
        assert config.socket.startswith("/")
