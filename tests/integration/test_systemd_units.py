"""The unit files: systemd finds nothing to say, and the directives that must be on or off are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import tomli

from boxlited.config import Config, check_config, load_config

UNITS = Path(__file__).parents[2] / "systemd"
MAX_EXPOSURE = 8.7
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")

ON = {
    "Type": "notify",
    "NotifyAccess": "main",
    "Restart": "always",
    "KillMode": "process",
    "UMask": "0077",
    "RuntimeDirectoryPreserve": "yes",
    "OOMPolicy": "continue",
    "LockPersonality": "yes",
    "RestrictRealtime": "yes",
    "SystemCallArchitectures": "native",
}
BOXES_ON = {"Type": "exec", "KillMode": "process", "Delegate": "yes", "OOMPolicy": "continue", "TasksMax": "infinity"}
OFF = (
    "RestrictNamespaces",
    "PrivateTmp",
    "PrivateDevices",
    "ProtectControlGroups",
    "NoNewPrivileges",
    "ProtectSystem",
    "ProtectHome",
    "ProtectProc",
    "PrivateUsers",
)


def directives(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


FILES = sorted(str(path) for path in UNITS.iterdir() if path.suffix in (".service", ".socket"))


@needs_systemd
def test_systemd_analyze_verify_prints_nothing() -> None:
    assert [Path(path).name for path in FILES] == [
        "boxlited-boxes.service", "boxlited-ro.socket", "boxlited.service", "boxlited.socket",
    ]  # fmt: skip
    done = subprocess.run(
        ["systemd-analyze", "verify", *FILES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")


@needs_systemd
def test_the_unit_of_a_user_without_capabilities_is_sound_and_less_exposed(tmp_path: Path) -> None:
    copies = [shutil.copy(path, tmp_path) for path in FILES]
    service = next(path for path in copies if path.endswith("/boxlited.service"))
    dropin = Path(f"{service}.d")
    dropin.mkdir()
    shutil.copy(UNITS / "boxlited-unprivileged.conf", dropin / "unprivileged.conf")
    done = subprocess.run(
        ["systemd-analyze", "verify", *copies], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")
    asked = directives("boxlited-unprivileged.conf")
    assert asked["CapabilityBoundingSet"] == asked["AmbientCapabilities"] == ""
    assert asked["User"] in (UNITS / "boxlited.sysusers.conf").read_text()


@needs_systemd
@pytest.mark.parametrize("wrong", [False, True])
def test_the_units_of_an_ordinary_user_are_sound_and_a_wrong_directive_would_be_seen(
    tmp_path: Path, *, wrong: bool
) -> None:
    copies = [shutil.copy(UNITS / name, tmp_path) for name in ("user/boxlited.service", "boxlited-boxes.service")]
    if wrong:
        unit = Path(copies[0])
        unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=proces"))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *copies],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.stdout + done.stderr != "") == wrong, done.stderr


@needs_systemd
def test_a_wrong_directive_would_be_seen(tmp_path: Path) -> None:
    copies = [shutil.copy(path, tmp_path) for path in FILES]
    service = Path(next(path for path in copies if path.endswith("/boxlited.service")))
    service.write_text(service.read_text().replace("KillMode=process", "KillMode=proces"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(service)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr != ""


@needs_systemd
def test_exposure_stays_within_what_sandboxes_need() -> None:
    service = next(path for path in FILES if path.endswith("/boxlited.service"))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", service],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"Overall exposure level for boxlited.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MAX_EXPOSURE


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None, reason="needs root and systemd's programs"
)
def test_group_and_directories_are_made_on_a_machine_that_has_neither(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    for program, options, name in (("sysusers", [], "sysusers"), ("tmpfiles", ["--create"], "tmpfiles")):
        argv = [f"systemd-{program}", f"--root={tmp_path}", *options, str(UNITS / f"boxlited.{name}.conf")]
        subprocess.run(argv, capture_output=True, timeout=60, check=True)
    assert re.search(r"^boxlited:", (tmp_path / "etc/group").read_text(), re.MULTILINE)
    modes = {name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("var/lib/boxlited", "run/boxlited")}
    assert modes == {"var/lib/boxlited": 0o700, "run/boxlited": 0o755}


def test_directives_that_must_be_on() -> None:
    unit = directives("boxlited.service")
    assert {key: unit.get(key) for key in ON} == ON
    assert "WatchdogSec" in unit
    assert "Delegate" not in unit, "boxes below the daemon's own group would keep the next daemon out of it"
    boxes = directives("boxlited-boxes.service")
    assert {key: boxes.get(key) for key in BOXES_ON} == BOXES_ON
    assert "boxlited-boxes.service" in unit["Wants"]
    assert "boxlited-boxes.service" in unit["After"]


def test_unit_of_an_ordinary_user_keeps_the_same_promises() -> None:
    unit = directives("user/boxlited.service")
    same = ("Type", "Restart", "KillMode", "WatchdogSec", "OOMPolicy", "UMask", "ExecStart")
    system = directives("boxlited.service")
    assert {key: unit.get(key) for key in same} == {key: system[key] for key in same}
    assert (unit["Wants"], unit["After"]) == ("boxlited-boxes.service",) * 2


@pytest.mark.parametrize("name", OFF)
def test_directives_that_must_be_off_say_why(name: str) -> None:
    text = (UNITS / "boxlited.service").read_text()
    assert not re.search(rf"^{name}=", text, re.MULTILINE)
    assert re.search(rf"^#.*\b{name}\b", text, re.MULTILINE), f"the file does not say why {name} is off"


def test_example_config_is_the_defaults(tmp_path: Path) -> None:
    example = UNITS / "boxlited.toml.example"
    assert check_config(example) == []
    shown = tomli.loads(example.read_text())
    defaults = msgspec.json.decode(msgspec.json.encode(Config()))
    for key, value in shown.items():
        if isinstance(value, dict):
            assert value == {name: defaults[key][name] for name in value}
        else:
            assert value == defaults[key]
    text = example.read_text()
    for table, value in defaults.items():
        for name in value if isinstance(value, dict) else [table]:
            assert re.search(rf"^#? ?\[?(engines\.)?{name}\b", text, re.MULTILINE), f"{table}.{name} is not explained"
    assert load_config(example, {}, home=str(tmp_path), socket=str(tmp_path / "s")).reconcile.period_seconds == 5.0
