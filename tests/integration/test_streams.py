"""What lasts longer than a daemon: events, followed logs and waits, over its death and its return."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from boxlited.client.client import Client
from boxlited.client.connections import UnixConnection
from boxlited.client.sse import Message, Parser
from boxlited.errors import BoxlitedError, NotFound, Timeout
from tests.integration.daemon_harness import Daemon, kill_pid, until

BOXCTL = [sys.executable, "-m", "boxlited.cli.boxctl"]
END_SECONDS = 30.0
CONFIG = "[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n"
COUNTING = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo line $i; sleep 0.005; done; echo end $i; exit 4"


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


def end_daemon(daemon: Daemon, how: str) -> None:
    if how == "SIGTERM":
        assert daemon.stop() == 0
    else:
        daemon.kill9()


def boxctl(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*BOXCTL, "--socket", str(daemon.socket), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it still writes and complains of until its end; `communicate` would pass over what was read ahead."""
    assert process.stdout is not None
    assert process.stderr is not None
    late = threading.Timer(END_SECONDS, process.kill)
    late.start()
    try:
        said = process.stdout.read(), process.stderr.read()
        process.wait()
    finally:
        late.cancel()
        process.stdout.close()
        process.stderr.close()
    return said


# ---- events


class Follower:
    """A client of the event stream that goes on with Last-Event-ID whenever it was cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[Message] = []
        self.connects = 0
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                self._follow()
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)  # nobody is there: ask again soon

    def _follow(self) -> None:
        with closing(UnixConnection(str(self.path))) as connection:
            connection.connect()
            connection.sock.settimeout(1.0)
            connection.request("GET", "/v1/events", headers={"Last-Event-ID": self.last})
            reply = connection.getresponse()
            assert reply.getheader("Content-Type") == "text/event-stream"
            self.connects += 1
            parser = Parser()
            while not self.over.is_set() and (chunk := reply.read1(65536)):
                self.seen += parser.feed(chunk)

    @property
    def last(self) -> str:
        return str(self.seen[-1].id) if self.seen else "0"


def all_events(daemon: Daemon) -> list[Any]:
    with daemon.client.events(0, follow=False) as stream:
        return list(stream)


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
def test_events_are_seen_once_and_all_of_them_over_restarts(daemon: Daemon, how: str) -> None:
    def churn(number: int) -> None:
        """Boxes come and go until the daemon dies under it."""
        with Client(daemon.socket, retry_seconds=0) as client:
            for turn in range(1000):
                try:
                    box = client.create({"image": "host", "cmd": ["sleep", "99"], "name": f"c{number}-{turn}"})
                    client.start(box["box_id"])
                    client.remove(box["box_id"], force=True)
                except BoxlitedError:
                    return

    with Follower(daemon.socket) as follower, ThreadPoolExecutor(4) as pool:
        for round_number in range(4):
            before = len(follower.seen)
            churning = [pool.submit(churn, 10 * round_number + worker) for worker in range(3)]
            until(lambda start=before: len(follower.seen) > start + 40, "events come")  # type: ignore[misc]
            end_daemon(daemon, how)
            for one in churning:
                one.result(END_SECONDS)
            daemon.start()
        daemon.create(name="the-last")
        until(lambda: any("the-last" in message.data for message in list(follower.seen)), "the last event comes")

        def caught_up() -> list[Any]:
            """The whole log, once as much was heard: a removal that was cut goes on behind the last event."""
            log = all_events(daemon)
            return log if len(follower.seen) >= len(log) else []

        expected = until(caught_up, "all that the log has is heard")
    assert follower.connects >= 5
    del follower.seen[len(expected) :]
    seen = [json.loads(message.data) for message in follower.seen]
    assert [event["seq"] for event in seen] == [event["seq"] for event in expected]
    assert seen == expected, "what was published is what is kept"
    assert [str(event["seq"]) for event in seen] == [message.id for message in follower.seen]
    assert [message.event for message in follower.seen] == [event["kind"] for event in seen]


def test_the_program_shows_each_event_once_over_a_restart(daemon: Daemon) -> None:
    process = boxctl(daemon, "events", "--since", "0", "--format", "json")
    assert process.stdout is not None
    try:
        daemon.create(name="first")
        shown = [json.loads(process.stdout.readline())]
        while shown[-1].get("name") != "first":
            shown.append(json.loads(process.stdout.readline()))
        daemon.kill9()
        daemon.start().create(name="second")
        while shown[-1].get("name") != "second":
            shown.append(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate(timeout=END_SECONDS)
    assert shown == all_events(daemon)


def test_a_number_from_the_future_gives_only_what_is_new(daemon: Daemon) -> None:
    with closing(UnixConnection(str(daemon.socket))) as connection:
        connection.connect()
        connection.sock.settimeout(END_SECONDS)
        connection.request("GET", "/v1/events", headers={"Last-Event-ID": "999999"})
        reply = connection.getresponse()
        box = daemon.create(name="new")
        parser, seen = Parser(), []
        while not seen:
            seen += parser.feed(reply.read1(65536))
    assert json.loads(seen[0].data)["box_id"] == box["box_id"]


# ---- followed logs


def counting_box(daemon: Daemon) -> Path:
    """A box that counts aloud until the file appears that is returned."""
    directory = daemon.root / "shared"
    directory.mkdir()
    daemon.run(["sh", "-c", COUNTING], name="counter", volumes=[{"host_path": str(directory), "guest_path": "/tmp"}])
    return directory / "stop"


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
def test_a_followed_log_is_whole_over_restarts(daemon: Daemon, how: str) -> None:
    stop = counting_box(daemon)
    process = boxctl(daemon, "logs", "-f", "counter")
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(20)]
        for _ in range(3):
            end_daemon(daemon, how)
            daemon.start()
            lines += [process.stdout.readline() for _ in range(20)]
        stop.touch()
        rest, complaints = rest_of(process)
    finally:
        process.kill()
    numbered = "".join(lines) + rest
    *counted, last = numbered.splitlines()
    assert counted == [f"line {number + 1}" for number in range(len(counted))], "a line is lost, torn or repeated"
    assert last == f"end {len(counted)}"
    assert (process.returncode, complaints) == (0, "")


def test_a_followed_log_ends_when_the_box_ends_while_no_daemon_is_there(daemon: Daemon) -> None:
    stop = counting_box(daemon)
    process = boxctl(daemon, "logs", "-f", "counter")
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        daemon.kill9()
        stop.touch()
        until(lambda: not daemon.shims(), "the box ends")
        daemon.start()
        rest, _ = rest_of(process)
    finally:
        process.kill()
    *counted, last = (first + rest).splitlines()
    assert last == f"end {len(counted)}"
    assert process.returncode == 0


# ---- waiting


def test_wait_returns_when_the_box_fails_and_says_why(daemon: Daemon) -> None:
    boxes = [daemon.run(["sh", "-c", "trap 'kill -SEGV $$' USR1; echo up; while :; do sleep 0.05; done"]), daemon.run()]
    until(lambda: b"up" in b"".join(daemon.client.logs(boxes[0]["box_id"])), "the trap is set")
    with ThreadPoolExecutor(2) as pool, Client(daemon.socket) as waiter:
        waits = [pool.submit(waiter.wait, box["box_id"], END_SECONDS) for box in boxes]
        daemon.client.kill(boxes[0]["box_id"], signal.SIGUSR1)
        kill_pid(boxes[1]["pid"])
        faulted, killed = (one.result(END_SECONDS) for one in waits)
    assert (faulted["status"], killed["status"]) == ("failed", "failed")
    assert "SIGSEGV" in str(faulted["failure_reason"])
    assert "SIGKILL" in str(killed["failure_reason"])


def test_wait_returns_the_code_of_a_box_that_ended_before_and_of_one_that_is_removed(daemon: Daemon) -> None:
    box = daemon.run(["sh", "-c", "exit 9"])
    assert daemon.client.wait(box["box_id"], END_SECONDS).get("exit_code") == 9
    assert daemon.client.wait(box["box_id"], END_SECONDS).get("exit_code") == 9
    running = daemon.run()
    with ThreadPoolExecutor(1) as pool, Client(daemon.socket) as waiter:
        waiting = pool.submit(waiter.wait, running["box_id"], END_SECONDS)
        with pytest.raises(Timeout):
            daemon.client.wait(running["box_id"], 0.1)
        daemon.client.remove(running["box_id"], force=True)
        try:
            assert waiting.result(END_SECONDS)["status"] == "stopped"
        except NotFound:
            pass  # it asked between two polls, after the box had gone


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
@pytest.mark.parametrize("when", ["while it is away", "after it is back"])
def test_the_program_waits_over_a_restart(daemon: Daemon, how: str, when: str) -> None:
    stop = counting_box(daemon)
    process = boxctl(daemon, "wait", "counter")
    try:
        until(lambda: is_asking(daemon, process.pid), "it waits")
        end_daemon(daemon, how)
        if when == "while it is away":
            stop.touch()
            until(lambda: not daemon.shims(), "the box ends")
        daemon.start()
        stop.touch()
        out, complaints = process.communicate(timeout=END_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, out, complaints) == (4, "4\n", "")


def is_asking(daemon: Daemon, pid: int) -> bool:
    """Whether the daemon holds a connection of this process."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(entry))
    return any(link.startswith("socket:") for link in links) and daemon.process is not None


# ---- the end


def test_open_streams_do_not_hold_up_the_end_of_the_daemon(daemon: Daemon) -> None:
    """Whoever is held up to the end of its grace is cut; these end as they should."""
    box = daemon.run(["sh", "-c", "echo up; sleep 99"])
    with Client(daemon.socket) as client, ThreadPoolExecutor(1) as pool:
        events, logs = client.events(client.last_event_seq()), client.logs(box["box_id"], follow=True)
        waiting = pool.submit(client.wait, box["box_id"])
        assert next(iter(logs)) == b"up\n"
        assert daemon.stop() == 0
        assert b"".join(logs) == b""
        assert [event["kind"] for event in events] == []
        with pytest.raises(BoxlitedError):
            waiting.result(END_SECONDS)
