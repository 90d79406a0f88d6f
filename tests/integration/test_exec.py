"""Commands beside the workload of a running box: what they get, what they say, and how they end."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boxlited.shim.executions import KEPT_BYTES, PIPE_BYTES, RING_BYTES
from tests.integration.commands import Commands, ask
from tests.integration.daemon_harness import Daemon, until
from tests.integration.ws import Refused

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n"
MEGABYTE = 1 << 20
LENGTH = 6 * (PIPE_BYTES + (RING_BYTES + KEPT_BYTES) // 2) // 5  # of each output: more than pipes and shim hold


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as one:
        yield one.start({"SECRET_OF_THE_DAEMON": "unseen"})


@pytest.fixture(scope="module", params=["sandbox", "process"])
def box(daemon: Daemon, request: pytest.FixtureRequest) -> Commands:
    return Commands(daemon, daemon.run(engine=request.param, env={"OF_THE_BOX": "1"})["box_id"])


@pytest.fixture(scope="module")
def sandbox(daemon: Daemon) -> Commands:
    return Commands(daemon, daemon.run()["box_id"])


def pss_of(pid: int) -> int:
    """Kilobytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def test_both_outputs_and_the_exit_code(box: Commands) -> None:
    end = box.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (end.stdout, end.stderr, end.errors, end.code) == (b"out\n", b"err\n", [], 1000)
    assert end.exit == {"type": "exit", "exit_code": 3}


@pytest.mark.parametrize("number", [9, 15, 11, 6])
def test_death_by_a_signal(box: Commands, number: int) -> None:
    execution = box.exec("sh", "-c", f"kill -{number} $$; sleep 60")
    name = signal.Signals(number).name
    end = box.attach(execution).end()
    assert end.exit == {"type": "exit", "exit_code": 128 + number, "error_message": f"killed by {name}"}
    info = box.info(execution)
    assert (info["status"], info["exit_code"], info["error_message"]) == ("killed", 128 + number, f"killed by {name}")
    assert info["duration_ms"] >= 0


def test_timeout_kills_the_whole_group(box: Commands) -> None:
    execution = box.exec("sh", "-c", "sleep 4711 & echo $!; wait", timeout_seconds=0.3)
    with box.attach(execution) as stream:
        end = stream.end()
    assert end.exit == {"type": "exit", "exit_code": 137, "error_message": "it ran longer than 0.3 s"}
    assert box.info(execution)["status"] == "timed_out"
    until(lambda: box.run("kill", "-0", end.stdout.decode().strip()).exit_code != 0, "the child is gone")


def test_environment_and_directory(box: Commands) -> None:
    text = box.sh("pwd; env", env={"MINE": "a b", "PATH": "/usr/bin:/bin"}, working_dir="/usr/bin")
    lines = text.splitlines()
    assert lines[0] == "/usr/bin"
    assert {"MINE=a b", "PATH=/usr/bin:/bin", "OF_THE_BOX=1"} <= set(lines)
    assert "SECRET_OF_THE_DAEMON" not in text


def test_directory_and_environment_are_the_boxs_own_by_default(sandbox: Commands) -> None:
    assert sandbox.sh("pwd; echo $HOME; umask; tty || true") == "/root\n/root\n0022\nnot a tty\n"
    workload = sandbox.sh("tr '\\0' '\\n' < /proc/2/environ | grep -v ^PWD= | sort")
    assert sandbox.sh("env | grep -v ^PWD= | sort") == workload


@pytest.mark.parametrize("asked", ["own", "number"])
def test_its_own_user_is_accepted(box: Commands, asked: str) -> None:
    own = box.sh("echo $(id -u):$(id -g)").strip()
    assert box.sh("echo $(id -u):$(id -g)", user=own if asked == "own" else own.partition(":")[0]).strip() == own


def test_another_user_is_refused(box: Commands) -> None:
    assert "does not exist in this box" in box.refused(422, "unsupported", "true", user="4711")
    assert "'no-such-user' does not exist" in box.refused(400, "invalid_argument", "true", user="no-such-user")


def test_a_box_with_a_user_runs_commands_as_that_user(daemon: Daemon) -> None:
    uid = 1234 if os.geteuid() == 0 else os.geteuid()
    box = Commands(daemon, daemon.run(user=f"{uid}:99")["box_id"])
    assert box.sh("id -u; id -g", user=str(uid)).split() == [str(uid), "99"]
    daemon.client.remove(box.box, force=True)


def test_what_cannot_be_executed_is_told(box: Commands) -> None:
    message = "command 'no-such-command' cannot be executed in the box: No such file or directory"
    assert box.refused(400, "invalid_argument", "no-such-command") == message
    assert "Permission denied" in box.refused(400, "invalid_argument", "/etc/passwd")
    assert "No such file or directory" in box.refused(400, "invalid_argument", "./x/y")
    message = box.refused(400, "invalid_argument", "true", working_dir="/no/such")
    assert message == "working_dir '/no/such' cannot be entered in the box: No such file or directory"
    assert "'/etc/passwd'" in box.refused(400, "invalid_argument", "true", working_dir="/etc/passwd")


def test_too_much_for_an_exec_is_told(box: Commands) -> None:
    message = box.refused(400, "invalid_argument", "true", "x" * 200_000)
    assert "Argument list too long" in message


def test_input_arrives_and_ends(box: Commands) -> None:
    assert box.run("cat", stdin=b"hello\n").stdout == b"hello\n"
    assert box.run("wc", "-c", stdin=b"").stdout.strip() == b"0"


def test_input_of_many_megabytes_through_a_slow_reader_is_whole_and_the_shim_stays_small(sandbox: Commands) -> None:
    data = os.urandom(24 * MEGABYTE)
    shim = sandbox.daemon.get(sandbox.box)["pid"]
    before = pss_of(shim)
    script = "sleep 0.5; i=0; while [ $i -lt 20 ]; do head -c 65536; i=$((i+1)); sleep 0.01; done; cat"
    with sandbox.attach(sandbox.exec("sh", "-c", f"({script}) | sha256sum")) as stream, ThreadPoolExecutor() as pool:
        feeding = pool.submit(lambda: (stream.stdin(data), stream.eof()))
        most = 0
        while not feeding.done():
            most = max(most, pss_of(shim) - before)
            time.sleep(0.02)
        feeding.result()
        end = stream.end()
    assert end.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert most < 8 * 1024


def test_input_that_becomes_more_output_does_not_lock_up(sandbox: Commands) -> None:
    data = os.urandom(4 * MEGABYTE)
    with sandbox.attach(sandbox.exec("od", "-v", "-An", "-tx1")) as stream, ThreadPoolExecutor() as pool:
        feeding = pool.submit(lambda: (stream.stdin(data), stream.eof()))
        end = stream.end()
        feeding.result()
    assert bytes.fromhex(end.stdout.decode()) == data


def test_input_after_the_end_of_a_command_is_no_trouble(sandbox: Commands) -> None:
    end = sandbox.run("true", stdin=bytes(MEGABYTE))
    assert (end.exit_code, end.code) == (0, 1000)


def test_a_hundred_commands_at_once_lose_nothing(box: Commands) -> None:
    script = f"head -c {LENGTH} /dev/urandom | tee /dev/stderr"

    def one(_number: int) -> tuple[int, str, str]:
        end = box.run("sh", "-c", script)
        return len(end.stdout), hashlib.sha256(end.stdout).hexdigest(), hashlib.sha256(end.stderr).hexdigest()

    with ThreadPoolExecutor(100) as pool:
        ends = list(pool.map(one, range(100)))
    assert {length for length, _out, _err in ends} == {LENGTH}
    assert all(out == err for _length, out, err in ends)
    assert len({out for _length, out, _err in ends}) == 100
    assert box.daemon.get(box.box)["status"] == "running"


def test_output_of_a_slow_client_waits_and_is_whole(sandbox: Commands) -> None:
    execution = sandbox.exec("sh", "-c", "head -c 6000000 /dev/urandom | tee sum | sha256sum >&2; cat sum")
    with sandbox.attach(execution, receive_bytes=4096) as stream:
        end = stream.end()
    assert hashlib.sha256(end.stdout).hexdigest().encode() == end.stderr.split()[0]


def test_signals_of_the_list_arrive_and_no_other(box: Commands) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    execution = box.exec("sh", "-c", script)
    with box.attach(execution) as stream:
        stream.until(b"ready")
        assert box.signal(execution, signal.SIGUSR1).status == 204
        stream.until(b"usr1")
        refused = box.signal(execution, signal.SIGKILL)
        assert (refused.status, refused.error["code"]) == (400, "invalid_argument")
        stream.say(type="signal", sig=9)
        assert "signal 9 is not allowed" in stream.next_text()["message"]
        stream.say(type="signal", sig=15)
        end = stream.end()
    assert (end.stdout, end.exit_code) == (b"term\n", 7)
    late = box.signal(execution, signal.SIGTERM)
    assert (late.status, late.error["code"]) == (409, "invalid_state")


def test_one_attach_at_a_time_and_free_again(box: Commands) -> None:
    execution = box.exec("sh", "-c", "echo first; read x; echo $x")
    with box.attach(execution) as stream:
        stream.until(b"first")
        assert box.info(execution)["attached"]
        with pytest.raises(Refused) as caught:
            box.attach(execution)
        assert (caught.value.status, caught.value.error["code"]) == (409, "already_exists")
    box.until(execution, attached=False)
    with box.attach(execution) as again:
        again.stdin(b"second\n")
        assert again.end().stdout == b"second\n"


def test_a_client_that_goes_while_its_input_waits_leaves_the_place_free(sandbox: Commands) -> None:
    execution = sandbox.exec("sh", "-c", "sleep 987654")
    stream = sandbox.attach(execution)
    stream.sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        stream.stdin(bytes(8 * MEGABYTE))
    stream.close()
    sandbox.until(execution, attached=False)
    assert sandbox.delete(execution).status == 204


def test_delete_kills_and_forgets_and_the_attached_client_sees_the_end(box: Commands) -> None:
    execution = box.exec("sh", "-c", "echo here; sleep 987654")
    with box.attach(execution) as stream:
        stream.until(b"here")
        assert box.delete(execution).status == 204
        end = stream.end()
    assert (end.exit_code, end.code) == (137, 1000)
    path = f"/v1/boxes/{box.box}/executions/{execution}"
    assert ask(box.daemon, "GET", path).status == 404
    assert box.delete(execution).status == 404
    assert execution not in [one["execution_id"] for one in box.list()]


def test_exec_starts_a_box_that_is_stopped(daemon: Daemon) -> None:
    box = Commands(daemon, daemon.create()["box_id"])
    assert box.run("echo", "up").stdout == b"up\n"
    assert daemon.get(box.box)["status"] == "running"
    daemon.client.stop(box.box)
    assert box.run("echo", "again").stdout == b"again\n"
    daemon.client.remove(box.box, force=True)


def test_questions_about_a_stopped_box_do_not_start_it(daemon: Daemon) -> None:
    box = daemon.create()
    answer = ask(daemon, "GET", f"/v1/boxes/{box['box_id']}/executions")
    assert (answer.status, answer.error["code"]) == (409, "stopped")
    assert daemon.get(box["box_id"])["status"] == "configured"
    daemon.client.remove(box["box_id"])


def test_a_box_without_a_command_stays_up_for_commands(daemon: Daemon) -> None:
    row = dict(daemon.client.create({"image": "host"}))
    box = Commands(daemon, row["box_id"])
    assert box.run("echo", "hello").stdout == b"hello\n"
    assert daemon.get(box.box)["status"] == "running"
    daemon.client.remove(box.box, force=True)


def test_the_same_key_is_the_same_execution_also_at_once(box: Commands) -> None:
    with ThreadPoolExecutor(12) as pool:
        ids = set(pool.map(lambda _: box.exec("sh", "-c", "echo once >> /tmp/once; sleep 987654", key="k"), range(24)))
    assert len(ids) == 1
    assert box.exec("sh", "-c", "echo other >> /tmp/once", key="k") in ids
    assert box.exec("true", key="k2") not in ids
    assert box.sh("cat /tmp/once; rm /tmp/once") == "once\n"
    assert box.delete(ids.pop()).status == 204


def test_counters_tell_commands_and_errors(sandbox: Commands) -> None:
    client = sandbox.daemon.client
    before, of_box = client.metrics(), client.box_metrics(sandbox.box)
    sandbox.run("true")
    sandbox.refused(400, "invalid_argument", "no-such-command")
    after = sandbox.daemon.client.metrics()
    grown = {key: after[key] - before[key] for key in ("total_commands_executed", "total_exec_errors")}
    assert grown == {"total_commands_executed": 2, "total_exec_errors": 1}
    seen = client.box_metrics(sandbox.box)
    grown = {key: seen[key] - of_box[key] for key in ("commands_executed_total", "exec_errors_total")}
    assert grown == {"commands_executed_total": 2, "exec_errors_total": 1}
