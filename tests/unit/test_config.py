"""Configuration: every mistake is named, all of them at once, and nothing but ConfigError comes out."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxlited import config as module
from boxlited.api.listeners import READ_ONLY_NAME, read_only_path
from boxlited.cli import probes
from boxlited.client import NoDaemon, paths
from boxlited.config import Config, check_config, load_config
from boxlited.errors import ConfigError, InvalidArgument

EVERY_FILE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "boxlited.toml"


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*arguments: object, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 78
    return caught.value.message.splitlines()


# ---- what is said about a mistake


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hoem = '/x'", "unknown key 'hoem'; did you mean 'home'?"),
        ("[reconcile]\nperiod = 5", "unknown key 'reconcile.period'; did you mean 'period_seconds'?"),
        ("[reconcil]\nperiod_seconds = 5", "unknown key 'reconcil'; did you mean 'reconcile'?"),
        ("[logs]\nzzz = 1", "unknown key 'logs.zzz'; known here: keep, max_bytes"),
        (
            "[engines.external.vm]\ncommand = ['x']\ncomand = 1",
            "unknown key 'engines.external.vm.comand'; did you mean 'command'?",
        ),
        ("[engines.external.vm]", "'engines.external.vm' lacks the key 'command'"),
        ("[engines.external.vm]\ncommand = []", "engines.external.vm.command = []: Expected 'array' of length >= 1"),
        ("engines.external.vm = 5", "engines.external.vm = 5: Expected 'object', got 'int'"),
        ("engines = 5", "engines = 5: Expected 'object', got 'int'"),
        ("log_level = 'loud'", "log_level = 'loud': must be one of 'debug', 'info', 'warning', 'error'"),
        ("log_level = 3", "log_level = 3: must be one of 'debug', 'info', 'warning', 'error'"),
        ("[engines]\nenabled = 'sandbox'", "engines.enabled = 'sandbox': must be a list of 'process', 'sandbox'"),
        ("[engines]\nenabled = ['vm']", "engines.enabled = ['vm']: must be one of 'process', 'sandbox'"),
        ("[reconcile]\nperiod_seconds = 0", "reconcile.period_seconds = 0: Expected 'float' > 0.0"),
        ("[reconcile]\nperiod_seconds = nan", "reconcile.period_seconds = nan: Expected 'float' > 0.0"),
        ("[reconcile]\nperiod_seconds = inf", "reconcile.period_seconds = inf: Expected 'float' <= 86400.0"),
        ("[reconcile]\nperiod_seconds = '5'", "reconcile.period_seconds = '5': Expected 'float', got 'str'"),
        ("[reconcile]\njitter = 0.6", "reconcile.jitter = 0.6: Expected 'float' <= 0.5"),
        ("[shutdown]\ngrace_seconds = 1e9", "shutdown.grace_seconds = 1000000000.0: Expected 'float' <= 86400.0"),
        ("[stop]\ndefault_timeout_seconds = -1", "stop.default_timeout_seconds = -1: Expected 'float' >= 0.0"),
        ("[limits]\nmax_boxes = true", "limits.max_boxes = True: Expected 'int | null', got 'bool'"),
        ("[limits]\nmax_boxes = 0", "limits.max_boxes = 0: Expected 'int' >= 1"),
        ("[events]\nkeep = 9223372036854775808", "events.keep = 9223372036854775808: Expected 'int' <= 1000000000"),
        ("[logs]\nmax_bytes = 4095", "logs.max_bytes = 4095: Expected 'int' >= 4096"),
        ("home = 1979-05-27", "home = datetime.date(1979, 5, 27): Expected 'str', got 'date'"),
        ('home = "/a\\u0000b"', "home = '/a\\x00b': must not hold a NUL character"),
        ("engines.external.vm.command = ['a', \"b\\u0000\"]", "must not hold a NUL character"),
        ('engines.external."\\u001b".command = 1', "'engines.external.\\x1b.command' = 1"),
        ('"\\u001b[31m" = 1', "unknown key '\\x1b[31m'"),
        ("[engines]\ndefault = 'process'", "engines.default = 'process': must be one of the enabled: 'sandbox'"),
        ("engines.external.process.command = ['x']", "engines.external.process: this name is taken"),
        ("[api]\nlisten = '127.0.0.1:1'", "api.listen needs api.token_file"),
        ("socket = '/'", "socket = '/': must name a file"),
        (f"socket = '/{'x' * 107}'", "is longer than 107 bytes"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_what_is_allowed(toml: Path, text: str, said: str) -> None:
    (problem,) = check_config(written(toml, text))
    assert problem.startswith(f"{toml}: ")
    assert said in problem
    assert refusal(toml, {}) == [problem]


def test_all_mistakes_of_all_sources_are_said_at_once(toml: Path) -> None:
    written(toml, "hoem = 1\nlog_format = 'xml'\n[reconcile]\nperiod_seconds = -1\njitter = 7\n[logs]\nkeep = 'x'\n")
    said = refusal(toml, {"BOXLITED_LOG_LEVEL": "loud"}, home="", log_format="html")
    starts = ["unknown key 'hoem'", "log_format = 'xml'", "reconcile.period_seconds", "reconcile.jitter", "logs.keep"]
    assert [line.startswith(f"{toml}: {start}") for line, start in zip(said, starts, strict=False)] == [True] * 5
    assert said[5:] == [
        "BOXLITED_LOG_LEVEL: log_level = 'loud': must be one of 'debug', 'info', 'warning', 'error'",
        "--home: must not be empty: give a value, or leave it out",
        "--log-format: log_format = 'html': must be one of 'json', 'console'",
    ]


def test_mistakes_between_keys_are_all_said_too(toml: Path) -> None:
    written(toml, "[engines]\ndefault='vm'\nexternal.sandbox.command=['x']\n[api]\nlisten='h:1'")
    assert len(check_config(toml)) == 3
    assert len(refusal(toml, {"BOXLITED_SOCKET": "/" + "x" * 200})) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"home = 'a'\n[api\n", "(at line 2, column 5)"),
        (b"[api]\ngroup = 'x'\ngroup = 'y'\n", "(at line 3, column 12)"),
        (b"home = 'a'\nsocket = '\xff'\n", "not UTF-8 (at line 2)"),
        (b"x = " + b"[" * 3000, "nested"),
        (b"x = " + b"1" * 5000, "4300"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_position(toml: Path, content: bytes, said: str) -> None:
    toml.write_bytes(content)
    (problem,) = refusal(toml, {})
    assert problem.startswith(f"{toml}: not valid TOML: ")
    assert said in problem
    assert check_config(toml) == [problem]


def test_a_huge_value_is_shown_in_a_bounded_line(toml: Path) -> None:
    for value in (f"'{'x' * 100_000}'", f"0x{'f' * 5000}", f"[{'1,' * 9999}]"):
        (problem,) = check_config(written(toml, f"log_level = {value}"))
        assert len(problem) < 400


# ---- which file


def test_a_file_that_was_named_must_be_there(toml: Path, tmp_path: Path) -> None:
    assert refusal(toml, {}) == [f"{toml}: cannot be read: No such file or directory"]
    assert refusal(None, {"BOXLITED_CONFIG": str(toml)}) == [f"{toml}: cannot be read: No such file or directory"]
    assert refusal(tmp_path, {}) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_the_users_own_file_is_read_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "BOXLITED_HOME": "/h", "BOXLITED_SOCKET": "/s"}
    assert load_config(None, environ).logs.keep == 2
    (tmp_path / "boxlited").mkdir()
    written(tmp_path / "boxlited/boxlited.toml", "[logs]\nkeep = 7")
    assert load_config(None, environ).logs.keep == 7
    named = written(toml, "[logs]\nkeep = 8")
    assert load_config(None, {**environ, "BOXLITED_CONFIG": str(named)}).logs.keep == 8
    assert load_config(written(tmp_path / "c", ""), {**environ, "BOXLITED_CONFIG": str(named)}).logs.keep == 2


def test_a_file_that_cannot_be_looked_at_is_not_taken_as_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "boxlited").symlink_to("boxlited")
    assert "cannot be read" in refusal(None, {"XDG_CONFIG_HOME": str(tmp_path)})[0]


# ---- who wins


def test_command_line_beats_environment_beats_file_beats_default(toml: Path) -> None:
    written(toml, "home = '/file'\nsocket = '/file.sock'\nlog_level = 'error'\n[api]\nlisten='a:1'\ntoken_file='/t'")
    environ = {"BOXLITED_HOME": "/env", "BOXLITED_SOCKET": "/env.sock"}
    config = load_config(toml, environ, home="/cli", listen="b:2", socket=None)
    assert (config.home, config.socket, config.log_level, config.log_format) == ("/cli", "/env.sock", "error", "json")
    assert (config.api.listen, config.api.token_file) == ("b:2", "/t")


def test_only_the_value_that_wins_is_judged_and_an_empty_variable_is_unset() -> None:
    environ = {"BOXLITED_LOG_LEVEL": "loud", "BOXLITED_HOME": "", "BOXLITED_SOCKET": ""}
    config = load_config(None, {**environ, "BOXLITED_CONFIG": os.devnull}, log_level="debug")
    assert config.log_level == "debug"
    assert config.home == str(module.default_home(environ))
    assert config.socket == str(module.default_socket(environ))


def test_relative_paths_begin_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(Path(os.devnull), {"BOXLITED_HOME": "state/../h"}, socket="./x.sock")
    assert (config.home, config.socket) == (f"{tmp_path}/h", f"{tmp_path}/x.sock")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "working directory is gone" in refusal(Path(os.devnull), {}, home="h")[0]


def test_a_path_of_the_environment_need_not_be_utf_8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff"
    config = load_config(Path(os.devnull), {"BOXLITED_HOME": os.fsdecode(raw), "BOXLITED_SOCKET": "/s"})
    assert os.fsencode(config.home) == raw
    assert "must be one of" in refusal(Path(os.devnull), {"BOXLITED_LOG_LEVEL": "\udcff"})[0]


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("runtime", [None, "", "/run/user/5", "run"])
@pytest.mark.parametrize("data", [None, "", "/data"])
@pytest.mark.parametrize("named", [None, "", "/named"])
def test_daemon_client_and_doctor_agree_on_home_and_socket(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str | None, data: str | None, named: str | None
) -> None:
    variables = {"XDG_RUNTIME_DIR": runtime, "XDG_DATA_HOME": data, "BOXLITED_HOME": named, "BOXLITED_SOCKET": named}
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    config = load_config(Path(os.devnull), os.environ)
    assert str(paths.default_socket().absolute()) == config.socket
    assert str(probes.home_path().absolute()) == config.home


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # nobody has it
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "BOXLITED_SOCKET", "BOXLITED_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert "set HOME, or BOXLITED_HOME" in refusal(None, {})[0]
    assert load_config(None, {"BOXLITED_HOME": "/h", "BOXLITED_SOCKET": "/s"}).home == "/h"
    with pytest.raises(NoDaemon, match="set BOXLITED_SOCKET or HOME"):
        paths.default_socket()
    with pytest.raises(InvalidArgument, match="set HOME, or BOXLITED_HOME"):
        probes.home_path()


def test_the_socket_does_not_take_the_name_of_the_read_only_one() -> None:
    with pytest.raises(ConfigError, match="read-only"):
        read_only_path(Path("/run") / READ_ONLY_NAME)


# ---- whatever it is


def loads_or_says_why(path: Path, environ: dict[str, str]) -> None:
    problems: list[str] = []
    try:
        config = load_config(path, {"BOXLITED_HOME": "/h", "BOXLITED_SOCKET": "/s", **environ})
        assert isinstance(config, Config)
    except ConfigError as error:
        problems = error.message.splitlines() or ["?"]
    assert all(line.isprintable() and len(line) < 500 for line in problems)
    assert bool(problems) == bool(check_config(path)) or environ


@EVERY_FILE
@given(st.binary(max_size=60))
def test_any_bytes_are_a_config_or_a_config_error(toml: Path, content: bytes) -> None:
    toml.write_bytes(content)
    loads_or_says_why(toml, {})


VOCABULARY = """
home socket log_level api listen token_file reconcile period_seconds jitter engines external enabled default command
limits mode max_boxes logs keep max_bytes events stop shutdown on_stop x '' true nan inf -1 0 5 1e999 07:32:00
1979-05-27 'sandbox' ['process'] [[]] {} {a=1} [{command=['x']}] 99999999999999999999 "\\u0000" "\\u001b"
"""
WORDS = st.sampled_from(VOCABULARY.split())
LINES = st.one_of(
    st.builds("{} = {}".format, WORDS, WORDS),
    st.builds("[{}]".format, WORDS),
    st.builds("{}.{} = {}".format, WORDS, WORDS, WORDS),
    st.builds("{}.{}.{} = {}".format, WORDS, WORDS, WORDS, WORDS),
    st.builds("[engines.external.{}]\ncommand = {}".format, WORDS, WORDS),
)


@EVERY_FILE
@given(st.lists(LINES, max_size=4))
def test_any_toml_is_a_config_or_a_config_error(toml: Path, lines: list[str]) -> None:
    loads_or_says_why(written(toml, "\n".join(lines)), {})


@EVERY_FILE
@given(st.dictionaries(st.sampled_from(["HOME", "SOCKET", "LOG_LEVEL", "LOG_FORMAT"]), st.binary(max_size=130)))
def test_any_environment_is_a_config_or_a_config_error(toml: Path, values: dict[str, bytes]) -> None:
    environ = {f"BOXLITED_{key}": os.fsdecode(value.replace(b"\0", b"")) for key, value in values.items()}
    loads_or_says_why(written(toml, ""), environ)


@EVERY_FILE
@given(st.text(string.ascii_lowercase + "_", min_size=1, max_size=20))
def test_a_key_is_known_or_refused(toml: Path, key: str) -> None:
    if key not in Config.__struct_fields__:
        (problem,) = check_config(written(toml, f"{key} = 1"))
        assert f"unknown key '{key}'" in problem


@pytest.mark.parametrize("mode", ["strict", "best-effort"])
def test_limits_may_be_a_word_instead_of_a_table(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "boxlited.toml"
    file.write_text(f"limits = '{mode}'\n")
    assert load_config(file, {"BOXLITED_HOME": "/h", "BOXLITED_SOCKET": "/s"}).limits.mode == mode
    file.write_text("limits = 'srtict'\n")
    assert "limits.mode = 'srtict'" in check_config(file)[0]
