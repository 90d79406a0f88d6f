"""Rows 1 to 6 and 9 to 17 of the fault list: identity, evidence of death, restarts and reboots."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boxlited.client import Client
from boxlited.errors import BoxlitedError, InvalidState, NotFound
from tests.integration import foreign_shim
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, reader_at, signal_pid, until
from tests.integration.database import edit_rows, lose_database
from tests.integration.processes import spawner_of, start_time

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n"
EXTERNAL = f"[engines.external.vm]\ncommand = {json.dumps([sys.executable, '-I', foreign_shim.__file__])}\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


def kernel_version() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def blind(daemon: Daemon) -> tuple[int, int]:
    """Leave the daemon no free descriptor; returns what to restore."""
    assert daemon.process is not None
    pid = daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest_free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    return before


def see_again(daemon: Daemon, before: tuple[int, int]) -> None:
    assert daemon.process is not None
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, before)


def test_row_01_a_live_shim_that_cannot_be_recognised_is_unknown_and_not_started_twice(daemon: Daemon) -> None:
    box = daemon.run()
    passes = daemon.client.metrics()["reconcile_passes_total"]
    before = blind(daemon)
    try:
        until(lambda: daemon.get(box["box_id"])["status"] == "unknown", "three blind passes say unknown")
        with pytest.raises(BoxlitedError):
            daemon.client.start(box["box_id"])
        with pytest.raises(InvalidState):
            daemon.client.stop(box["box_id"])
        with pytest.raises(InvalidState):
            daemon.client.remove(box["box_id"], force=True)
        for number in (signal.SIGUSR1, signal.SIGKILL):
            with pytest.raises(InvalidState, match="could not be examined"):  # and not: "there is nothing to signal"
                daemon.client.kill(box["box_id"], number)
        assert [pid for _, pid in daemon.shims()] == [box["pid"]]
    finally:
        see_again(daemon, before)
    row = daemon.wait_status(box["box_id"], "running")
    assert row["pid"] == box["pid"]
    assert daemon.client.metrics()["reconcile_passes_total"] > passes
    daemon.check_oracle({box["box_id"]: "running"})


def test_row_02_a_probe_that_fails_for_a_passing_reason_is_no_death_and_is_tried_again(daemon: Daemon) -> None:
    boxes = [daemon.run(restart={"policy": "always"}) for _ in range(2)]
    before = blind(daemon)
    try:
        for box in boxes:
            until(lambda b=box: daemon.get(b["box_id"])["status"] == "unknown", "blind passes say unknown")  # type: ignore[misc]
        passes = daemon.client.metrics()["reconcile_passes_total"]
        until(lambda: daemon.client.metrics()["reconcile_passes_total"] > passes + 2, "it looks again and again")
        for box in boxes:
            row = daemon.get(box["box_id"])
            assert (row["identity"], row["ended_at"], row["stop_cause"]) == ("unknown", None, None)
    finally:
        see_again(daemon, before)
    for box in boxes:
        row = daemon.wait_status(box["box_id"], "running")
        assert (row["pid"], row["restart_count"]) == (box["pid"], 0)
    daemon.check_oracle({box["box_id"]: "running" for box in boxes})


@pytest.mark.parametrize("command", ["stop", "remove", "kill", "start", "reconcile"])
def test_row_03_pid_reused_while_the_daemon_was_down(daemon: Daemon, command: str) -> None:
    box = daemon.run()
    daemon.kill9()
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    stranger = daemon.sentinels[0].pid
    recorded = (daemon.box_dir(box["box_id"]) / "shim.pid").read_text().split()[1]
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(f"{stranger}\n{recorded}\n")
    edit_rows(daemon, "UPDATE boxes SET pid = ?", stranger)
    daemon.start()
    row = daemon.get(box["box_id"])
    assert row["status"] in ("stopped", "failed")
    assert row["pid"] is None
    if command == "stop":
        daemon.client.stop(box["box_id"])
    elif command == "kill":
        with pytest.raises(InvalidState):
            daemon.client.kill(box["box_id"])
    elif command == "remove":
        daemon.client.remove(box["box_id"], force=True)
    elif command == "start":
        assert daemon.client.start(box["box_id"])["pid"] != stranger
    else:
        daemon.client.reconcile()
    assert is_alive(stranger)
    daemon.check_oracle()


def test_row_04_no_signal_leaves_a_terminal_state(daemon: Daemon) -> None:
    box = daemon.run(["/bin/sh", "-c", "exit 7"])
    daemon.client.wait(box["box_id"], 20)
    before = daemon.table()
    for number in (9, 15, 10):
        with pytest.raises(InvalidState):
            daemon.client.kill(box["box_id"], number)
    assert daemon.client.stop(box["box_id"])["exit_code"] == 7
    assert daemon.table() == before
    daemon.check_oracle({box["box_id"]: "stopped"})


def test_row_05_pid_reused_within_the_same_tick_is_told_apart_by_the_pidfs_inode(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    stranger = daemon.sentinels[0].pid  # pid and start time agree, as after a reuse within a tick
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(f"{stranger}\n{start_time(stranger)}\n")
    daemon.start()
    row = daemon.get(box["box_id"])
    if kernel_version() < (6, 9):
        pytest.skip("this kernel has no pidfs inodes: pid and start time are all there is")
    assert row["status"] in ("stopped", "failed")
    daemon.client.remove(box["box_id"], force=True)
    assert is_alive(stranger)
    daemon.check_oracle()


def test_row_05_a_box_that_was_adopted_without_its_row_is_told_apart_too(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    lose_database(daemon)
    daemon.start()  # what it knows of the shim now, it saw itself
    assert daemon.get(box["box_id"])["pid"] == box["pid"]
    daemon.kill9()
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    stranger = daemon.sentinels[0].pid
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(f"{stranger}\n{start_time(stranger)}\n")
    daemon.start()
    if kernel_version() < (6, 9):
        pytest.skip("this kernel has no pidfs inodes: pid and start time are all there is")
    assert daemon.get(box["box_id"])["status"] in ("stopped", "failed")
    daemon.client.remove(box["box_id"], force=True)
    daemon.check_oracle()


def test_a_box_whose_row_was_lost_has_its_signals_and_its_commands_back(daemon: Daemon) -> None:
    """Which run it is lies in the shim's sealed spec: without that, a signal is swallowed and told as delivered."""
    box = daemon.run(["/bin/sh", "-c", "trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.05; done"])
    until(lambda: b"ready" in b"".join(daemon.client.logs(box["box_id"])), "the trap is set")
    daemon.kill9()
    lose_database(daemon)
    daemon.start()
    row = daemon.get(box["box_id"])
    assert (row["status"], row["pid"], row["run_id"]) == ("running", box["pid"], box["run_id"])
    daemon.client.kill(box["box_id"], signal.SIGUSR1)
    until(lambda: b"got usr1" in b"".join(daemon.client.logs(box["box_id"])), "the signal arrives")
    daemon.client.exec(box["box_id"], "true")
    daemon.check_oracle({box["box_id"]: "running"})


def test_row_06_commands_at_once_do_not_overwrite_each_other(daemon: Daemon) -> None:
    boxes = [daemon.create()["box_id"] for _ in range(4)]

    def storm(number: int) -> None:
        box_id = boxes[number % len(boxes)]
        try:
            if number % 3 == 0:
                daemon.client.stop(box_id, 0.1)
            else:
                daemon.client.start(box_id)
        except BoxlitedError:
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storm, range(40)))
    for box_id in boxes:
        daemon.client.start(box_id)
    shims = dict(daemon.shims())
    assert {row["pid"] for row in daemon.table().values()} == set(shims.values())
    for box_id in boxes:
        daemon.client.stop(box_id)
    daemon.check_oracle(dict.fromkeys(boxes, "stopped"))


def test_row_06_a_stop_that_comes_in_the_midst_of_a_start_waits_for_it(tmp_path: Path) -> None:
    """Else it would find nothing to stop, say so, and the shim in flight would run all the same."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Daemon(CONFIG) as daemon, ThreadPoolExecutor(1) as pool:
        daemon.start({"BOXLITED_FAILPOINTS": f"hook.before_pid_file=pause:{gate}"})
        box_id = daemon.create()["box_id"]
        starting = pool.submit(daemon.client.start, box_id)
        held = reader_at(gate)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.connect(str(daemon.socket))
            raw.sendall(f"POST /v1/boxes/{box_id}/stop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            for _ in range(3):  # what comes after it is answered, so it was read
                with Client(daemon.socket) as client:
                    client.health()
            os.close(held)
            assert starting.result()["status"] == "running"
            assert raw.recv(65536).split(b" ")[1] == b"200"
        assert daemon.get(box_id)["status"] == "stopped"
        assert daemon.shims() == []
        daemon.check_oracle({box_id: "stopped"})


def test_row_09_shim_killed_without_an_exit_file(daemon: Daemon) -> None:
    box = daemon.run()
    kill_pid(box["pid"])
    row = daemon.wait_status(box["box_id"], "failed")
    assert row["stop_cause"] == "shim_killed"
    assert "killed by SIGKILL" in row["failure_reason"]
    daemon.client.remove(box["box_id"])  # the first rm works
    with pytest.raises(NotFound):
        daemon.client.get(box["box_id"])
    daemon.check_oracle()


def test_row_09_adopted_shim_killed_after_a_restart_is_still_told(daemon: Daemon) -> None:
    """It is no child of this daemon's spawner: the pidfd alone tells how it ended."""
    box = daemon.run()
    daemon.restart_after_kill()
    kill_pid(box["pid"])
    row = daemon.wait_status(box["box_id"], "failed", "stopped")
    if kernel_version() < (6, 15):
        pytest.skip("this kernel does not tell how a process that is no child has ended")
    assert "killed by SIGKILL" in row["failure_reason"]


@pytest.mark.parametrize(
    ("script", "status", "code"), [("exit 0", "stopped", 0), ("exit 9", "stopped", 9), ("kill -SEGV $$", "failed", 139)]
)
def test_row_10_end_while_the_daemon_is_down_is_settled_before_it_answers(
    daemon: Daemon, script: str, status: str, code: int
) -> None:
    box = daemon.run(["/bin/sh", "-c", f"while [ ! -e /root/go ]; do sleep 0.02; done; {script}"])
    daemon.kill9()
    (daemon.box_dir(box["box_id"]) / "upper" / "go").touch()
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    daemon.start()
    row = daemon.get(box["box_id"])  # the very first answer
    assert (row["status"], row["exit_code"]) == (status, code)
    daemon.check_oracle({box["box_id"]: status})


def test_row_11_exit_file_that_arrives_late_is_waited_for(tmp_path: Path) -> None:
    """The shim is dead, the daemon knows it and has no word of how: what is written now is still heard."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Daemon(CONFIG + EXTERNAL) as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": f"apply.await_evidence=pause:{gate}"})
        box = daemon.run(["leave"], engine="vm")
        signal_pid(box["pid"], signal.SIGUSR1)
        held = reader_at(gate)
        try:
            assert not is_alive(box["pid"])
            record = {"type": "panic", "exit_code": 101, "message": "late words", "run_id": box["run_id"]}
            (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(record))
        finally:
            os.close(held)
        row = daemon.wait_status(box["box_id"], "failed", "stopped")
        assert (row["status"], row["stop_cause"], row["exit_code"]) == ("failed", "crashed", 101)
        assert "late words" in row["failure_reason"]
        daemon.check_oracle({box["box_id"]: "failed"})


def test_row_11_the_wait_for_an_exit_file_ends_and_no_code_is_made_up() -> None:
    with Daemon(CONFIG + EXTERNAL) as daemon:
        daemon.start()
        silent, killed = daemon.run(["leave"], engine="vm"), daemon.run()
        signal_pid(silent["pid"], signal.SIGUSR1)
        kill_pid(killed["pid"])
        ends = {box["box_id"]: daemon.wait_status(box["box_id"], "failed") for box in (silent, killed)}
        codes = [(row["exit_code"], row["exit_signal"]) for row in ends.values()]
        assert codes == [(3, None), (137, "SIGKILL")]  # the shims' own ends, as waitpid told them: not 0, not 255
        assert not any((daemon.box_dir(box_id) / "exit").exists() for box_id in ends)
        daemon.check_oracle(dict.fromkeys(ends, "failed"))


def test_row_12_exit_file_of_an_earlier_life_is_not_blamed_on_the_live_box(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    stale = {"type": "signal", "exit_code": 134, "signal": "SIGABRT", "run_id": "0" * 32}
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(stale))
    daemon.start()
    assert daemon.get(box["box_id"])["pid"] == box["pid"]
    assert not (daemon.box_dir(box["box_id"]) / "exit").exists()
    assert "SIGABRT" in daemon.client.crash(box["box_id"], previous=True)["user_message"]
    daemon.check_oracle({box["box_id"]: "running"})


def test_row_12_seed_format_exit_file_of_a_dead_box_fails_it(daemon: Daemon) -> None:
    box = daemon.create()
    daemon.kill9()
    (daemon.box_dir(box["box_id"]) / "exit").write_text('{"type":"signal","exit_code":134,"signal":"SIGABRT"}')
    daemon.start()
    row = daemon.get(box["box_id"])
    assert row["status"] == "failed"
    assert "SIGABRT" in row["failure_reason"]
    assert (daemon.box_dir(box["box_id"]) / "exit").exists()  # stays in the active slot
    daemon.check_oracle({box["box_id"]: "failed"})


def test_row_33_spawner_that_cannot_be_started_again_is_tried_until_it_can(daemon: Daemon) -> None:
    box, idle = daemon.run(), daemon.create()
    before = blind(daemon)
    try:
        kill_pid(spawner_of(daemon))
        until(lambda: "spawner cannot be started" in daemon.log_text(), "it is tried in vain")
        with pytest.raises(BoxlitedError):
            daemon.client.start(idle["box_id"])
        assert daemon.get(box["box_id"])["pid"] == box["pid"]
    finally:
        see_again(daemon, before)
    spawner_of(daemon)
    daemon.wait_status(box["box_id"], "running")
    assert daemon.client.start(idle["box_id"])["status"] == "running"
    daemon.check_oracle({box["box_id"]: "running", idle["box_id"]: "running"})


@pytest.mark.parametrize("policy", ["no", "always"])
def test_row_07_box_whose_directory_is_gone_is_failed_and_says_so(daemon: Daemon, policy: str) -> None:
    box, other = daemon.run(restart={"policy": policy}), daemon.run()
    daemon.kill9()
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    shutil.rmtree(daemon.box_dir(box["box_id"]))
    daemon.start()
    row = daemon.get(box["box_id"])
    assert (row["status"], row["stop_cause"], row["desired"]) == ("failed", "directory_missing", "stopped")
    assert "box directory is missing" in row["failure_reason"]
    with pytest.raises(InvalidState, match="missing"):
        daemon.client.start(box["box_id"])
    assert daemon.client.stop(box["box_id"])["status"] == "failed"
    daemon.check_oracle({box["box_id"]: "failed", other["box_id"]: "running"})
    daemon.client.remove(box["box_id"])
    daemon.check_oracle({other["box_id"]: "running"})


@needs_root
def test_row_13_shim_gone_and_its_cgroup_populated(daemon: Daemon) -> None:
    box = daemon.run()
    path = next(
        line.split("::", 1)[1] for line in Path(f"/proc/{box['pid']}/cgroup").read_text().splitlines() if "::" in line
    )
    mount = Path("/sys/fs/cgroup/unified")
    group = (mount if mount.exists() else Path("/sys/fs/cgroup")) / path.lstrip("/")
    leftover = subprocess.Popen(["sleep", "300"])
    try:
        (group / "cgroup.procs").write_text(str(leftover.pid))
        kill_pid(box["pid"])
        daemon.wait_status(box["box_id"], "failed")
        assert leftover.wait(timeout=10) == -signal.SIGKILL  # not said before the cgroup was empty
        daemon.check_oracle({box["box_id"]: "failed"})
    finally:
        leftover.kill()
        leftover.wait()


@needs_root
def test_row_14_reboot(tmp_path: Path) -> None:
    fake = tmp_path / "boot_id"
    fake.write_text("11111111-2222-3333-4444-555555555555\n")
    with Daemon(CONFIG) as daemon:
        daemon.start()
        plain = daemon.run()
        always = daemon.run(restart={"policy": "always"})
        daemon.kill9()
        for _box, pid in daemon.shims():
            kill_pid(pid)
        until(lambda: not daemon.shims(), "everything is dead, as after a reboot")
        bind = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
        argv = [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(daemon.home)]
        argv += ["--socket", str(daemon.socket), "--config", str(daemon.config)]
        with daemon.log.open("ab") as log:
            daemon.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", bind, "sh", str(fake), *argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        daemon.wait_ready()
        row = daemon.get(plain["box_id"])
        assert (row["status"], row["stop_cause"]) == ("stopped", "host_rebooted")
        assert row["desired"] == "stopped"
        # A new sandbox cannot be mounted below this made-up /proc; that the policy acts is what counts here.
        assert daemon.get(always["box_id"])["desired"] == "running"
        daemon.until_box(always["box_id"], lambda box: box["restart_count"] > 0, "is restarted by its policy")


def test_row_14_same_pid_and_start_time_after_a_reboot_is_a_stranger(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends, as in a reboot")
    stranger = daemon.sentinels[0].pid
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(f"{stranger}\n{start_time(stranger)}\n")
    edit_rows(daemon, "UPDATE boxes SET boot_id = 'another-boot', pidfs_inode = NULL")
    daemon.start()
    row = daemon.get(box["box_id"])
    assert (row["status"], row["stop_cause"]) == ("stopped", "host_rebooted")
    daemon.client.remove(box["box_id"], force=True)
    daemon.check_oracle()


def test_row_15_restart_of_the_daemon_keeps_every_box(daemon: Daemon) -> None:
    boxes = [daemon.run(engine=engine) for engine in ("sandbox", "process", "sandbox")]
    before = daemon.table()
    for _ in range(2):
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.table() == before
    daemon.check_oracle({box["box_id"]: "running" for box in boxes})


def test_row_16_stop_for_good_drains_when_configured() -> None:
    with Daemon(CONFIG + "[shutdown]\non_stop = 'drain'\ngrace_seconds = 5\n") as daemon:
        daemon.start()
        boxes = [daemon.run() for _ in range(3)]
        assert daemon.stop() == 0
        assert daemon.shims() == []
        daemon.start()
        assert {daemon.get(box["box_id"])["stop_cause"] for box in boxes} == {"drained"}
        daemon.check_oracle({box["box_id"]: "stopped" for box in boxes})


def test_row_16_boxlited_drain_stops_all_with_progress(daemon: Daemon) -> None:
    boxes = [daemon.run() for _ in range(3)]
    done = subprocess.run(
        [sys.executable, "-m", "boxlited.cli.boxlited", "drain", "--socket", str(daemon.socket)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 of 3 boxes stopped" in done.stdout
    daemon.check_oracle({box["box_id"]: "stopped" for box in boxes})


def test_row_17_workload_never_sees_a_broken_pipe(daemon: Daemon) -> None:
    script = "i=0; while [ ! -e /root/stop ]; do echo n$i; i=$((i+1)); done; echo last$i"
    box = daemon.run(["/bin/sh", "-c", script])
    log = daemon.box_dir(box["box_id"]) / "logs" / "console.log"
    until(lambda: log.exists() and log.stat().st_size > 10_000, "it writes")
    daemon.kill9()
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size, "it goes on writing")
    (daemon.box_dir(box["box_id"]) / "upper" / "stop").touch()
    until(lambda: not is_alive(box["pid"]), "it ends by itself")
    daemon.start()
    assert daemon.get(box["box_id"])["exit_code"] == 0
    lines = b"".join(daemon.client.logs(box["box_id"])).split()
    last = int(lines[-1].removeprefix(b"last"))
    if not (log.parent / "console.log.2").exists():
        assert lines[:-1] == [b"n%d" % number for number in range(last)]
    daemon.check_oracle({box["box_id"]: "stopped"})


@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_no_orphan_survives_a_shim_that_is_killed_at_any_moment(daemon: Daemon, engine: str) -> None:
    """Also what the workload forked away: the kernel takes the namespace down with the shim."""
    for step in range(8):
        mark = f"{900000 + step}.{os.getpid()}"
        box = daemon.run(["/bin/sh", "-c", f"(setsid sleep {mark} &) ; exec sleep {mark}"], engine=engine)
        if step % 2:
            until(lambda m=mark: len(_sleepers(m)) >= 2, "both sleepers run")  # type: ignore[misc]
        kill_pid(box["pid"])
        daemon.wait_status(box["box_id"], "failed")
        until(lambda m=mark: not _sleepers(m), "no sleeper is left")  # type: ignore[misc]
        daemon.client.remove(box["box_id"])


def _sleepers(mark: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", mark.encode()] and is_alive(int(name)):
                found.append(int(name))
    return found
