"""The unit files: systemd finds nothing to say, and the directives that must be on or off are."""

from __future__ import annotations

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


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """Copies whose program exists: where boxlited lies is not the unit's business."""
    for unit in UNITS.glob("boxlited*.s*"):
        if unit.suffix in (".service", ".socket"):
            text = unit.read_text().replace("ExecStart=/usr/bin/boxlited", "ExecStart=/bin/true")
            (tmp_path / unit.name).write_text(text)
    return sorted(str(path) for path in tmp_path.iterdir())


@needs_systemd
def test_systemd_analyze_verify_prints_nothing(installed: list[str]) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", *installed], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert len(installed) == 4


@needs_systemd
def test_a_wrong_directive_would_be_seen(installed: list[str]) -> None:
    service = Path(next(path for path in installed if path.endswith("/boxlited.service")))
    service.write_text(service.read_text().replace("KillMode=process", "KillMode=proces"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(service)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr != ""


@needs_systemd
def test_exposure_stays_within_what_sandboxes_need(installed: list[str]) -> None:
    service = next(path for path in installed if path.endswith("/boxlited.service"))
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
