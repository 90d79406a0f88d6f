"""`boxctl doctor` on this host: its probes start programs, tell the truth and leave nothing behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from boxlited.cli import boxctl, checks, doctor, probes


def test_the_probes_agree_with_this_host() -> None:
    assert probes.pidfd_open_errno() is None
    kernel = checks.kernel_version(os.uname().release)
    assert probes.pidfds_have_inodes() == (kernel >= (6, 9))
    assert probes.exit_info_available() == (kernel >= (6, 15))


def test_probing_leaves_no_descriptor_and_no_child(tmp_path: Path) -> None:
    doctor.examine(str(tmp_path / "warm-up"))
    before = _held()
    doctor.examine(str(tmp_path / "none"))
    assert _held() == before


def _held() -> tuple[set[str], list[str]]:
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return set(os.listdir("/proc/self/fd")), "".join(children).split()


def test_without_systemctl_there_is_no_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probes.unit_properties() is None


def test_the_unit_is_read_from_systemctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!{sys.executable}\nprint('LoadState=loaded\\nKillMode=mixed')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probes.unit_properties() == {"LoadState": "loaded", "KillMode": "mixed"}


def test_doctor_needs_no_daemon_and_its_code_says_whether_something_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BOXLITED_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        boxctl.main(["--socket", str(tmp_path / "none"), "doctor", "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert {"python", "kernel", "pidfd", "sandbox", "cgroups", "daemon"} <= {check["name"] for check in found}
    assert ended.value.code == int(any(check["level"] == "fail" for check in found))
