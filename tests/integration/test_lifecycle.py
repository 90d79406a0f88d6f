"""The life of a box through the real daemon: create, start, stop, crash, logs."""

from __future__ import annotations

import json
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from boxlited.client import Client
from boxlited.errors import InvalidArgument, InvalidState, NotFound, Unsupported
from tests.integration.commands import ask
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, until

DEAF = ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1000; done"]
CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.5\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon(CONFIG, on_disk=True) as daemon:
        yield daemon.start()


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo:
        current = todo.pop()
        try:
            children = Path(f"/proc/{current}/task/{current}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(child) for child in children]
        todo += [int(child) for child in children]
    return found


def workload_of(shim: int) -> int:
    """Below bubblewrap and its init; not a child of its own, which a shell has for moments."""

    def third() -> int:
        pid = shim
        for _ in range(3):
            with suppress(FileNotFoundError, ProcessLookupError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                if children:
                    pid = int(children[0])
                    continue
            return 0
        return pid

    return until(third, "the workload appears")


@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_create_start_stop_remove(shared: Daemon, engine: str) -> None:
    box = shared.run(engine=engine)
    assert box["status"] == "running"
    assert (box["box_id"], box["pid"]) in shared.shims()
    recorded = (shared.box_dir(box["box_id"]) / "shim.pid").read_text().split()
    assert int(recorded[0]) == box["pid"]
    tree = descendants(box["pid"])
    stopped = shared.client.stop(box["box_id"])
    assert (stopped["status"], stopped["stop_cause"]) == ("stopped", "user")
    assert not any(is_alive(pid) for pid in [box["pid"], *tree])
    shared.client.remove(box["box_id"])
    with pytest.raises(NotFound):
        shared.client.get(box["box_id"])
    assert not shared.box_dir(box["box_id"]).exists()


def test_start_is_idempotent_when_running(shared: Daemon) -> None:
    box = shared.run()
    assert shared.client.start(box["box_id"])["pid"] == box["pid"]
    shared.client.remove(box["box_id"], force=True)


def stamp_of(daemon: Daemon, box_id: str) -> str:
    """The run that the exit file says it is of."""
    record: dict[str, str] = json.loads((daemon.box_dir(box_id) / "exit").read_text())
    return record["run_id"]


@pytest.mark.parametrize(
    ("script", "status", "code", "signal_name"),
    [
        ("exit 0", "stopped", 0, None),
        ("exit 3", "stopped", 3, None),
        ("exit 137", "stopped", 137, None),
        ("kill -9 $$", "failed", 137, "SIGKILL"),
        ("kill -ABRT $$", "failed", 134, "SIGABRT"),
        ("kill -SEGV $$", "failed", 139, "SIGSEGV"),
    ],
)
@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_each_end_is_told_apart(
    shared: Daemon, engine: str, script: str, status: str, code: int, signal_name: str | None
) -> None:
    box = shared.run(["/bin/sh", "-c", f"sleep 0.05; {script}"], engine=engine)
    ended = shared.client.wait(box["box_id"], 20)
    assert (ended["status"], ended["exit_code"]) == (status, code)
    assert stamp_of(shared, box["box_id"]) == box["run_id"]
    row = shared.get(box["box_id"])
    assert row["exit_signal"] == signal_name
    if signal_name is not None:
        assert signal_name in row["failure_reason"]
        assert signal_name in shared.client.crash(box["box_id"])["user_message"]
    shared.client.remove(box["box_id"])


def test_workload_killed_from_outside_is_failed_and_says_why(shared: Daemon) -> None:
    box = shared.run()
    kill_pid(workload_of(box["pid"]))
    row = shared.wait_status(box["box_id"], "failed")
    assert row["stop_cause"] == "crashed"
    assert "SIGKILL" in row["failure_reason"]
    shared.client.remove(box["box_id"])


def test_command_that_is_not_there_fails_the_start_with_its_name(shared: Daemon) -> None:
    box = shared.create(["no-such-command"])
    with pytest.raises(InvalidArgument, match="no-such-command"):
        shared.client.start(box["box_id"])
    row = shared.get(box["box_id"])
    assert (row["status"], row["stop_cause"]) == ("failed", "start_failed")
    assert "no-such-command" in row["failure_reason"]
    assert stamp_of(shared, box["box_id"]) == row["run_id"]
    assert not [pid for owner, pid in shared.shims() if owner == box["box_id"]]
    shared.client.remove(box["box_id"])


@pytest.mark.parametrize("engine", ["sandbox", "process"])
@pytest.mark.parametrize("spec", [{"cmd": ["true", "x" * 140_000]}, {"cmd": ["true"], "env": {"A": "x" * 140_000}}])
def test_words_that_the_kernel_does_not_take_are_the_callers_fault(
    shared: Daemon, engine: str, spec: dict[str, Any]
) -> None:
    box = shared.create(engine=engine, **spec)
    with pytest.raises(InvalidArgument, match="cmd and env are longer than the kernel takes"):
        shared.client.start(box["box_id"])
    assert shared.get(box["box_id"])["error_kind"] == "config"
    shared.client.remove(box["box_id"])


def test_start_after_a_crash_stashes_the_evidence(shared: Daemon) -> None:
    box = shared.run(["/bin/sh", "-c", "test -e /root/again && exec sleep 1000; touch /root/again; kill -ABRT $$"])
    shared.wait_status(box["box_id"], "failed")
    assert (shared.box_dir(box["box_id"]) / "exit").exists()
    again = shared.client.start(box["box_id"])
    assert again["failure_reason"] is None
    assert not (shared.box_dir(box["box_id"]) / "exit").exists()
    assert "SIGABRT" in shared.client.crash(box["box_id"], previous=True)["user_message"]
    with pytest.raises(NotFound):
        shared.client.crash(box["box_id"])
    shared.client.remove(box["box_id"], force=True)


@pytest.mark.parametrize("seed_status", ["configured", "failed", "stopped"])
def test_stop_never_spawns(shared: Daemon, seed_status: str) -> None:
    box = shared.create(["/bin/sh", "-c", "kill -ABRT $$" if seed_status == "failed" else "exit 0"])
    if seed_status != "configured":
        shared.client.start(box["box_id"])
        shared.wait_status(box["box_id"], seed_status)
    assert shared.client.stop(box["box_id"])["status"] == seed_status
    assert not [pid for owner, pid in shared.shims() if owner == box["box_id"]]
    shared.client.remove(box["box_id"])


def test_stop_of_a_deaf_workload_is_forced_after_its_grace(shared: Daemon) -> None:
    box = shared.run(DEAF)
    until(lambda: b"deaf" in b"".join(shared.client.logs(box["box_id"])), "the trap is set")
    stopped = shared.client.stop(box["box_id"], 0.3)
    assert (stopped["status"], stopped["stop_cause"], stopped["exit_code"]) == ("stopped", "user", 137)
    shared.client.remove(box["box_id"])


def test_a_stop_that_names_no_time_takes_the_configured_one() -> None:
    with Daemon("[stop]\ndefault_timeout_seconds = 0.25\n") as daemon:
        daemon.start()
        ref = daemon.run(DEAF)["box_id"]
        until(lambda: b"deaf" in b"".join(daemon.client.logs(ref)), "the trap is set")
        assert daemon.client.config()["defaults"]["stop_timeout_seconds"] == 0.25
        assert ask(daemon, "POST", f"/v1/boxes/{ref}/stop").status == 200
        assert '"grace": 0.25' in daemon.log_text()


@pytest.mark.parametrize(
    "hurry",
    [
        lambda client, ref: client.kill(ref),
        lambda client, ref: client.stop(ref, 0.2),
        lambda client, ref: client.restart(ref, 0.2),
        lambda client, ref: client.remove(ref, force=True),
    ],
    ids=["kill", "shorter_stop", "restart", "forced_remove"],
)
def test_who_is_less_patient_does_not_wait_for_a_stop_under_way(
    shared: Daemon, hurry: Callable[[Client, str], object]
) -> None:
    ref = shared.run(DEAF)["box_id"]
    until(lambda: b"deaf" in b"".join(shared.client.logs(ref)), "the trap is set")
    with ThreadPoolExecutor() as pool, Client(str(shared.socket)) as other:
        patient = pool.submit(other.stop, ref, 900.0)
        shared.wait_status(ref, "stopping")
        hurry(shared.client, ref)
        assert patient.result()["stop_cause"] == "user"
    with suppress(NotFound):
        shared.client.remove(ref, force=True)


def test_a_stop_under_way_keeps_no_signal_from_the_workload(shared: Daemon) -> None:
    script = "trap '' TERM; trap 'echo got usr1; exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    ref = shared.run(["/bin/sh", "-c", script])["box_id"]
    until(lambda: b"ready" in b"".join(shared.client.logs(ref)), "the trap is set")
    with ThreadPoolExecutor() as pool, Client(str(shared.socket)) as other:
        patient = pool.submit(other.stop, ref, 900.0)
        shared.wait_status(ref, "stopping")
        shared.client.kill(ref, signal.SIGUSR1)
        assert patient.result()["exit_code"] == 3
    shared.client.remove(ref)


def test_kill_delivers_any_signal_to_the_workload(shared: Daemon) -> None:
    box = shared.run(["/bin/sh", "-c", "trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.05; done"])
    until(lambda: b"ready" in b"".join(shared.client.logs(box["box_id"])), "the trap is set")
    shared.client.kill(box["box_id"], signal.SIGUSR1)
    until(lambda: b"got usr1" in b"".join(shared.client.logs(box["box_id"])), "the signal arrives")
    killed = shared.client.kill(box["box_id"])
    assert (killed["status"], killed["stop_cause"]) == ("stopped", "user")
    with pytest.raises(InvalidState):
        shared.client.kill(box["box_id"])
    shared.client.remove(box["box_id"])


def test_running_box_is_removed_only_with_force(shared: Daemon) -> None:
    box = shared.run()
    with pytest.raises(InvalidState, match="force"):
        shared.client.remove(box["box_id"])
    shared.client.remove(box["box_id"], force=True)
    assert not is_alive(box["pid"])


def test_auto_remove_publishes_the_exit_before_the_box_goes(shared: Daemon) -> None:
    since = shared.client.metrics()["events_last_seq"]
    box = shared.run(["/bin/sh", "-c", "exit 5"], auto_remove=True)
    until(lambda: box["box_id"] not in shared.table(), "it is removed")
    with shared.client.events(since, follow=False) as events:
        kinds = [event["kind"] for event in events if event["box_id"] == box["box_id"]]
    assert kinds == ["created", "starting", "started", "stopped", "removed"]


def test_auto_stop_and_auto_delete(shared: Daemon) -> None:
    box = shared.run(auto_stop=1, auto_delete=2)
    row = shared.wait_status(box["box_id"], "stopped")
    assert row["stop_cause"] == "auto_stop"
    until(lambda: box["box_id"] not in shared.table(), "auto_delete removes it")


def test_idempotency_key_gives_the_same_box(shared: Daemon) -> None:
    spec = {"image": "host", "cmd": ["/bin/true"]}
    first = shared.client.create(spec, idempotency_key="k1")
    assert shared.client.create(spec, idempotency_key="k1")["box_id"] == first["box_id"]
    shared.client.remove(first["box_id"])


def test_idempotency_key_holds_at_once_and_when_the_first_caller_has_gone(shared: Daemon) -> None:
    """A client that times out and tries again must not get a second box."""
    body = b'{"image": "host", "cmd": ["/bin/true"]}'
    head = b"POST /v1/boxes HTTP/1.1\r\nHost: b\r\nIdempotency-Key: gone\r\nContent-Length: %d\r\n\r\n" % len(body)
    known = {box["box_id"] for box in shared.client.list()}
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(shared.socket))
            caller.sendall(head + body)

    def create(_: int) -> str:
        with Client(shared.socket) as client:
            return client.create({"image": "host", "cmd": ["/bin/true"]}, idempotency_key="gone")["box_id"]

    with ThreadPoolExecutor(8) as crowd:
        ids = set(crowd.map(create, range(16)))
    assert len(ids) == 1
    assert {box["box_id"] for box in shared.client.list()} - known == ids
    shared.client.remove(ids.pop())


def test_log_is_rotated_and_bounded() -> None:
    with Daemon("[logs]\nmax_bytes = 65536\nkeep = 1\n") as daemon:
        daemon.start()
        box = daemon.run(["/bin/sh", "-c", "i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done"])
        daemon.client.wait(box["box_id"], 30)
        sizes = [entry.stat().st_size for entry in (daemon.box_dir(box["box_id"]) / "logs").iterdir()]
        assert len(sizes) == 2
        assert all(size <= 65536 for size in sizes)
        assert b"".join(daemon.client.logs(box["box_id"], tail=1)).strip() == b"line 39999"


def test_sandbox_holds(shared: Daemon) -> None:
    script = (
        "id -u; ls /proc | grep -c '^[0-9]'; ls -l /proc/self/fd | grep -c ' -> '; cat /proc/self/status | grep -E"
        " 'CapEff|NoNewPrivs'; ls /sys/class/net 2>/dev/null; touch /usr/x 2>&1; hostname; echo $HOME"
    )
    box = shared.run(["/bin/sh", "-c", script], name="holds")
    shared.client.wait(box["box_id"], 20)
    text = b"".join(shared.client.logs(box["box_id"])).decode()
    assert "CapEff:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "Read-only file system" in text
    assert "holds" in text
    shared.client.remove(box["box_id"])


def test_volumes_and_rootfs_refusals(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from the host")
    volume = {"host_path": str(tmp_path), "guest_path": "/data", "read_only": True}
    box = shared.run(["/bin/sh", "-c", "cat /data/note; touch /data/x"], volumes=[volume])
    shared.client.wait(box["box_id"], 20)
    assert b"from the host" in b"".join(shared.client.logs(box["box_id"]))
    assert not (tmp_path / "x").exists()
    shared.client.remove(box["box_id"])
    with pytest.raises(Unsupported, match="image"):
        shared.create(image="alpine:latest")
    with pytest.raises(InvalidArgument, match="rootfs_path"):
        shared.client.create({"rootfs_path": "/no/such/dir", "cmd": ["x"]})
    with pytest.raises(InvalidArgument, match="polcy"):
        shared.create(restart={"polcy": "no"})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"volumes": [{"host_path": "/usr", "guest_path": path} for path in ("/x", "/x/")]}, "given twice"),
        ({"network": {"mode": "enabled", "outbound": {"mode": "disabled"}}}, "give one form"),
        ({"network": {"allow_net": [], "inbound": {"mode": "disabled"}}}, "give one form"),
    ],
)
def test_a_wish_that_contradicts_another_is_refused(shared: Daemon, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        shared.create(**spec)


def test_logs_follow_ends_with_the_box(shared: Daemon) -> None:
    box = shared.run(["/bin/sh", "-c", "for i in 1 2 3; do echo n$i; sleep 0.05; done"])
    assert b"".join(shared.client.logs(box["box_id"], follow=True)) == b"n1\nn2\nn3\n"
    shared.client.remove(box["box_id"])


def test_reconcile_dry_run_changes_nothing(shared: Daemon) -> None:
    box = shared.run()
    seq = shared.client.metrics()["events_last_seq"]
    entries = {entry["box_id"]: entry for entry in shared.client.reconcile(dry_run=True)}
    assert entries[box["box_id"]]["identity"] == "verified"
    assert entries[box["box_id"]]["action"] == "none"
    assert shared.client.metrics()["events_last_seq"] == seq
    shared.client.remove(box["box_id"], force=True)


def test_boxes_get_the_file_limit_that_the_daemon_was_started_with() -> None:
    """The daemon raises its own; a program that uses select() must not inherit that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Daemon() as daemon:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        try:
            daemon.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        box = daemon.run(["/bin/sh", "-c", "ulimit -Sn; exec sleep 1000"])
        said = until(lambda: b"".join(daemon.client.logs(box["box_id"])), "the workload says its limit")
        assert said.strip() == b"512"
        assert daemon.process is not None
        soft, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard > 512
