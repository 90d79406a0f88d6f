"""Promises of `boxctl doctor`: each fact is judged as written here; what is looked at is not changed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.cli import checks, doctor, probes
from boxlited.cli.checks import BwrapFacts, CgroupFacts, Check, HomeFacts, Level, SocketFacts
from tests.unit import fake_daemon

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
GIB = 1024**3
ALL = frozenset({"memory", "pids", "cpu"})
NONE: frozenset[str] = frozenset()


def _cgroups(**facts) -> CgroupFacts:
    nothing = CgroupFacts(False, False, NONE, NONE, NONE, False)
    return nothing._replace(**facts)


def _home(**facts) -> HomeFacts:
    return HomeFacts("/h", True, "/h", True, 100 * GIB, 10**6)._replace(**facts)


VERDICTS = [
    (checks.python((3, 10, 9)), FAIL, "3.10.9"),
    (checks.python((3, 11, 0)), OK, "3.11.0"),
    (checks.python((4, 0, 0)), OK, "4.0.0"),
    (checks.kernel("5.5.19"), FAIL, "5.5.19"),
    (checks.kernel("5.6.0-rc1"), OK, "5.6"),
    (checks.kernel("6.18.44-fc"), OK, "6.18"),
    (checks.kernel("weird"), FAIL, "weird"),
    (checks.pidfd_open(None), OK, "works"),
    (checks.pidfd_open("ENOSYS"), FAIL, "ENOSYS"),
    (checks.pidfd_inode(True), OK, ""),
    (checks.pidfd_inode(False), WARN, "6.9"),
    (checks.exit_info(True), OK, ""),
    (checks.exit_info(False), WARN, "6.15"),
    (checks.sandbox(BwrapFacts(None, None, ""), True), FAIL, "pip install"),
    (checks.sandbox(BwrapFacts("/b", 0, ""), False), OK, "works"),
    (checks.sandbox(BwrapFacts("/b", 1, "No permissions to create new namespace"), False), FAIL, "sysctl"),
    (checks.sandbox(BwrapFacts("/b", 1, "No permissions to create new namespace"), True), WARN, "sysctl"),
    (checks.sandbox(BwrapFacts("/b", 1, "unshare: No space left on device"), False), FAIL, "max_user_names"),
    (checks.sandbox(BwrapFacts("/b", None, "it did not end in time"), False), FAIL, "in time"),
    (checks.cgroups(_cgroups(v2=True, v2_writable=True, v2_controllers=ALL)), OK, "v2"),
    (checks.cgroups(_cgroups(v2=True, v2_controllers=ALL)), WARN, "boxlited-boxes.service"),
    (checks.cgroups(_cgroups(v1_writable=ALL)), OK, "v1"),
    (checks.cgroups(_cgroups(v1_writable=frozenset({"pids"}))), WARN, "no limits of cpu, memory"),
    (checks.cgroups(_cgroups(v1_readonly=ALL)), WARN, "usable: none"),
    (checks.cgroup_kill(_cgroups(kill=True)), OK, ""),
    (checks.cgroup_kill(_cgroups()), WARN, "5.14"),
    (checks.unit({"LoadState": "loaded", "KillMode": "process"}), OK, "survive"),
    (checks.unit({"LoadState": "loaded", "KillMode": "control-group"}), FAIL, "kills every box"),
    (checks.socket(SocketFacts("/s", None, "1.0")), OK, "1.0"),
    (checks.socket(SocketFacts("/s", "ENOENT", None)), WARN, "make run"),
    (checks.socket(SocketFacts("/s", "ECONNREFUSED", None)), WARN, "systemctl start"),
    (checks.socket(SocketFacts("/s", "EACCES", None)), FAIL, "group boxlited"),
    (checks.home(_home()), OK, "/h"),
    (checks.home(_home(exists=False, nearest="/")), OK, "will be created"),
    (checks.home(_home(writable=False)), WARN, "BOXLITED_HOME"),
    (checks.home(_home(exists=False, writable=False, nearest="/")), FAIL, "not writable"),
    (checks.disk(_home()), OK, "MiB"),
    (checks.disk(_home(free_bytes=GIB // 2)), WARN, "free some"),
    (checks.disk(_home(free_bytes=1024)), FAIL, "free some"),
    (checks.disk(_home(free_inodes=5)), WARN, "5 inodes"),
    (checks.disk(_home(free_inodes=0)), OK, ""),  # btrfs counts none
    (checks.open_files(1024, 1024 * 1024), OK, "1048576"),
    (checks.open_files(1024, 20000), WARN, "LimitNOFILE"),
    (checks.open_files(256, 256), FAIL, "LimitNOFILE"),
]


@pytest.mark.parametrize(("check", "level", "says"), VERDICTS, ids=lambda v: str(v)[:60])
def test_each_fact_has_its_verdict_and_what_is_not_well_has_advice(check: Check, level, says: str) -> None:
    assert check.level is level
    assert says in f"{check.message} {check.advice}"
    assert bool(check.advice) == (level is not OK)


@pytest.mark.parametrize("properties", [None, {}, {"LoadState": "not-found", "KillMode": "control-group"}])
def test_without_a_unit_there_is_nothing_to_judge(properties) -> None:
    assert checks.unit(properties) is None


@given(st.text(max_size=20))
def test_no_release_string_makes_the_check_fail(release: str) -> None:
    checks.kernel(release)


@given(st.text(max_size=300))
def test_what_a_program_said_is_harmless_in_the_report(said: str) -> None:
    lines = doctor.report([checks.sandbox(BwrapFacts("/b", 1, said), False)], quiet=False, colour=False)
    assert len(lines) == 3
    assert all("\x1b" not in line and len(line.splitlines()) == 1 for line in lines)


def test_quiet_leaves_out_what_is_well() -> None:
    found = [checks.python((3, 12, 0)), checks.pidfd_inode(False)]
    lines = doctor.report(found, quiet=True, colour=False)
    assert not any("python" in line for line in lines)
    assert lines[-1] == "1 ok, 1 warn, 0 fail"


# ---- probing this host


def test_the_socket_probe_tells_its_cases_apart(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    assert probes.daemon_socket(str(path)) == SocketFacts(str(path), "ENOENT", None)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        assert probes.daemon_socket(str(path)).errno == "ECONNREFUSED"
    with fake_daemon.serving(path) as fake:
        fake.replies["GET", "/v1/config"] = (200, {"version": "7.7"})
        assert probes.daemon_socket(str(path)) == SocketFacts(str(path), None, "7.7")


def test_the_home_is_that_of_the_daemon_that_answers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BOXLITED_HOME", str(tmp_path / "another"))
    (tmp_path / "home").mkdir()
    with fake_daemon.serving(tmp_path / "d.sock") as fake:
        fake.replies["GET", "/v1/config"] = (200, {"version": "7.7", "home": str(tmp_path / "home")})
        facts = probes.home(probes.daemon_socket(str(tmp_path / "d.sock")).home)
        assert (facts.path, facts.exists, facts.nearest) == (str(tmp_path / "home"), True, str(tmp_path / "home"))
        fake.replies["GET", "/v1/config"] = (200, {"version": "7.7", "home": None})  # an older one says nothing
        assert probes.home(probes.daemon_socket(str(tmp_path / "d.sock")).home).path == str(tmp_path / "another")


def test_a_home_that_is_not_there_is_judged_by_where_it_would_be(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BOXLITED_HOME", str(tmp_path / "a" / "b"))
    facts = probes.home()
    assert (facts.exists, facts.nearest, facts.writable) == (False, str(tmp_path), True)
    assert facts.free_bytes > 0
    assert not (tmp_path / "a").exists()
