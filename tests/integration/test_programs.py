"""The program `boxlited` from outside: its words, its exit codes, and where its settings come from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from boxlited import __version__
from tests.integration.daemon_harness import until
from tests.integration.programs import END_SECONDS, PROGRAM, boxlited

# ---- check-config, version, usage


def test_check_config_accepts_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("log_level = 'debug'\n[reconcile]\nperiod_seconds = 2\n")
    done = boxlited("check-config", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: ok\n", "")


def test_check_config_says_every_problem_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("log_levle = 'debug'\nlog_format = 'xml'\n[limits]\nmax_boxes = -1\nmode = 'lax'\n[stops]\n")
    done = boxlited("check-config", file)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (78, 5)
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert "did you mean 'log_level'?" in lines[0]
    assert "'json', 'console'" in lines[1]
    assert "did you mean 'stop'?" in lines[4]
    served = boxlited("serve", "--config", file, "--home", tmp_path / "h", "--socket", tmp_path / "s")
    assert served.returncode == 78
    assert all(line in served.stderr for line in lines), "serve and check-config say the same"
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(("content", "word"), [(None, "cannot be read"), ("a = [", "not valid TOML")])
def test_check_config_of_what_is_no_file(tmp_path: Path, content: str | None, word: str) -> None:
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_text(content)
    done = boxlited("check-config", file)
    assert done.returncode == 78
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_version() -> None:
    for word in ("version", "--version"):
        assert boxlited(word).stdout == f"boxlited {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sreve"],
        ["serve", "--log-level", "loud"],
        ["drain", "--timeout", "x"],
        ["drain", "--timeout", "nan"],
        ["drain", "--timeout", "-1"],
        ["drain", "--timeout", "3601"],
    ],
)
def test_wrong_use_is_64_and_one_message(arguments: list[str]) -> None:
    done = boxlited(*arguments)
    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 2
    assert "--help" in done.stderr


# ---- where the settings come from


def test_the_command_line_beats_the_environment_and_that_the_file(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("option", "variable", "file")}
    config = tmp_path / "c.toml"
    config.write_text("".join(f"{key} = '{places['file'] / key}'\n" for key in ("home", "socket")))
    env = {f"BOXLITED_{key.upper()}": str(places["variable"] / key) for key in ("home", "socket")}
    options = [word for key in ("home", "socket") for word in (f"--{key}", str(places["option"] / key))]
    for name, more, variables in (
        ("option", ["--config", str(config), *options], env),
        ("variable", ["--config", str(config)], env),
        ("file", [], {"BOXLITED_CONFIG": str(config)}),
    ):
        process = subprocess.Popen(
            [*PROGRAM, "serve", *more],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables},
        )
        try:
            until((places[name] / "socket").exists, f"{name} is where it serves")
            assert (places[name] / "home" / "boxlited.lock").exists()
        finally:
            process.terminate()
            assert process.communicate(timeout=END_SECONDS)[0] is None
        assert process.returncode == 0
        assert sum(place.exists() for place in places.values()) == list(places).index(name) + 1
