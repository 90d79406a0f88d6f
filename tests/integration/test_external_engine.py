"""A shim program of somebody else behind our hook: what it is given, and that its box lives by the same rules."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxlited.config import Config
from boxlited.errors import BoxlitedError, EngineUnavailable, ImagePullFailed, NotFound, Unsupported
from boxlited.supervisor import start
from tests.integration import foreign_shim
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, until
from tests.integration.test_attach import succeed

COMMAND = [sys.executable, "-I", str(Path(foreign_shim.__file__)), "an argument"]
EXTERNAL = {"vm": COMMAND, "gone": ["/no/such/shim"], "data": ["/etc/passwd"]}
CONFIG = "[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n" + "".join(
    f"[engines.external.{name}]\ncommand = {json.dumps(command)}\n" for name, command in EXTERNAL.items()
)
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon(CONFIG) as daemon:
        yield daemon.start({"SECRET_OF_THE_DAEMON": "unseen"})


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as one:
        yield one.start()


def run(daemon: Daemon, behaviour: str, **spec: Any) -> dict[str, Any]:
    return daemon.run([behaviour], engine="vm", **spec)


def given(daemon: Daemon, box_id: str) -> dict[str, Any]:
    """What the shim says that it was given."""
    path = daemon.box_dir(box_id) / "tmp" / "report"
    until(path.exists, "the shim reports")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def refused(daemon: Daemon, behaviour: str, engine: str = "vm") -> tuple[BoxlitedError, dict[str, Any]]:
    """The error of a start that must fail, and the row after it; no process is left."""
    box = daemon.create([behaviour], engine=engine)
    with pytest.raises(BoxlitedError) as caught:
        daemon.client.start(box["box_id"])
    row = daemon.get(box["box_id"])
    assert (row["status"], row["stop_cause"], row["desired"]) == ("failed", "start_failed", "stopped")
    assert not [pid for owner, pid in daemon.shims() if owner == box["box_id"]]
    return caught.value, row


def test_spec_comes_sealed_on_descriptor_0_and_nowhere_else(shared: Daemon) -> None:
    box = run(shared, "serve", env={"TOKEN": "hunter2"}, image="docker.io/library/alpine")
    seen = given(shared, box["box_id"])
    assert seen["seals"] == ALL_SEALS
    assert (seen["position"], seen["writable"]) == (0, False)
    assert (seen["spec"]["box_id"], seen["spec"]["run_id"]) == (box["box_id"], box["run_id"])
    assert seen["spec"]["env"] == {"TOKEN": "hunter2"}
    for secret in (seen["spec"]["key"], "hunter2", box["run_id"]):
        assert secret not in json.dumps([seen["argv"], seen["environ"]])
    assert seen["argv"] == COMMAND
    assert seen["environ"] == ""
    shared.client.remove(box["box_id"], force=True)


def test_shim_holds_four_descriptors_and_leads_a_session(shared: Daemon) -> None:
    box = run(shared, "serve")
    seen = given(shared, box["box_id"])
    held = seen["descriptors"]
    assert set(held) == {"0", "1", "2", "3"}
    assert "memfd:boxlited-spec" in held["0"]
    assert held["1"] == "/dev/null"
    assert held["2"] == str(shared.box_dir(box["box_id"]) / "shim.stderr")
    assert held["3"].startswith("pipe:")
    assert seen["session"]
    assert int(seen["pid_file"].split()[0]) == box["pid"]
    shared.client.remove(box["box_id"], force=True)


def test_it_starts_says_what_it_did_not_apply_and_stops(shared: Daemon) -> None:
    box = run(shared, "serve")
    assert (box["status"], box["identity"], box["engine"]) == ("running", "verified", "vm")
    assert box["not_applied"] == ["cpus: not in this machine"]
    stopped = shared.client.stop(box["box_id"])
    assert (stopped["status"], stopped["stop_cause"], stopped["exit_code"]) == ("stopped", "user", 0)
    assert not is_alive(box["pid"])
    shared.client.remove(box["box_id"])


def test_a_shim_that_is_deaf_to_sigterm_is_killed_after_the_grace(shared: Daemon) -> None:
    box = run(shared, "deaf")
    stopped = shared.client.stop(box["box_id"], 0.2)
    assert (stopped["status"], stopped["exit_signal"]) == ("stopped", "SIGKILL")
    assert not is_alive(box["pid"])


def test_crash_is_told_from_its_exit_file_and_stashed_by_the_next_start(shared: Daemon) -> None:
    box = run(shared, "serve")
    shared.client.kill(box["box_id"], signal.SIGUSR1)  # reaches the shim itself: it knows no signals of ours
    row = shared.wait_status(box["box_id"], "failed")
    assert (row["stop_cause"], row["exit_code"]) == ("crashed", 101)
    assert "panicked at vmm.rs:1:2: the guest is gone" in row["failure_reason"]
    again = shared.client.start(box["box_id"])
    assert again["failure_reason"] is None
    with pytest.raises(NotFound):
        shared.client.crash(box["box_id"])
    assert "the guest is gone" in shared.client.crash(box["box_id"], previous=True)["user_message"]
    shared.client.remove(box["box_id"], force=True)


def test_killed_without_an_exit_file(shared: Daemon) -> None:
    box = run(shared, "serve")
    kill_pid(box["pid"])
    row = shared.wait_status(box["box_id"], "failed")
    assert (row["stop_cause"], row["exit_signal"]) == ("shim_killed", "SIGKILL")


def test_it_survives_the_daemon_and_is_found_again(daemon: Daemon) -> None:
    box, crashed = run(daemon, "serve"), run(daemon, "serve")
    daemon.kill9()
    assert is_alive(box["pid"])
    os.kill(crashed["pid"], signal.SIGUSR1)
    until(lambda: not is_alive(crashed["pid"]), "the shim ends while no daemon looks")
    daemon.start()
    found = daemon.get(box["box_id"])
    assert (found["status"], found["pid"], found["run_id"]) == ("running", box["pid"], box["run_id"])
    assert "the guest is gone" in daemon.get(crashed["box_id"])["failure_reason"]
    daemon.check_oracle({box["box_id"]: "running", crashed["box_id"]: "failed"})
    assert daemon.client.stop(box["box_id"])["exit_code"] == 0


def test_a_ready_line_is_optional_for_a_shim_that_lives(shared: Daemon) -> None:
    box = run(shared, "mute")
    assert box["status"] == "running"
    assert shared.client.stop(box["box_id"])["exit_code"] == 0


def test_what_it_refuses_is_told_as_it_said_it(shared: Daemon) -> None:
    error, row = refused(shared, "refuse")
    assert isinstance(error, Unsupported)
    assert error.message.startswith("no /dev/kvm here")
    assert (row["failure_reason"], row["exit_code"], row["exit_signal"]) == ("no /dev/kvm here", 1, None)


def test_silent_death_is_a_failed_start(shared: Daemon) -> None:
    error, row = refused(shared, "die")
    assert isinstance(error, EngineUnavailable)
    assert "code 3" in error.message
    assert "shim.stderr" in row["failure_reason"]
    assert "out of luck" in shared.client.crash(row["box_id"])["debug_info"]


def test_reason_in_the_exit_file_of_a_silent_death_is_told(shared: Daemon) -> None:
    error, row = refused(shared, "die_with_a_reason")
    assert isinstance(error, ImagePullFailed)
    assert "the kernel image is broken" in error.message
    assert row["error_kind"] == "image"


def test_a_ready_line_that_makes_no_sense_is_a_failed_start(shared: Daemon) -> None:
    error, _ = refused(shared, "babble")
    assert "ready? [[[[" in error.message


@pytest.mark.parametrize(("engine", "number"), [("gone", errno.ENOENT), ("data", errno.EACCES)])
def test_program_that_cannot_be_executed_is_told_with_its_errno(shared: Daemon, engine: str, number: int) -> None:
    error, row = refused(shared, "serve", engine)
    assert isinstance(error, EngineUnavailable)
    for word in (EXTERNAL[engine][0], f"errno {number}", f"[engines.external.{engine}]"):
        assert word in error.message
        assert word in row["failure_reason"]


async def test_a_shim_that_never_says_ready_is_ended_at_the_deadline(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "READY_DEADLINE_SECONDS", 0.5)
    box = daemon.create(["stuck"], engine="vm")
    config = {"engines": {"external": {"vm": {"command": COMMAND}}}}
    async with succeed(daemon, config) as (supervisor, _, _):
        with pytest.raises(EngineUnavailable, match=r"did not get ready in 0\.5 s"):
            await supervisor.start(box["box_id"])
        assert daemon.shims() == []
        row = supervisor.get(box["box_id"])
        assert (row.status.value, row.pid) == ("failed", None)


def test_engine_that_the_config_does_not_name_is_refused(shared: Daemon) -> None:
    with pytest.raises(Unsupported, match=r"'nope' is not known here; known: data, gone, process, sandbox, vm"):
        shared.create(["serve"], engine="nope")


def test_images_are_the_external_engines_own_affair(shared: Daemon) -> None:
    with pytest.raises(Unsupported, match="alpine"):
        shared.create(["serve"], image="alpine")
    assert shared.create(["serve"], image="alpine", engine="vm")["image"] == "alpine"
    assert Config().engines.external == {}
