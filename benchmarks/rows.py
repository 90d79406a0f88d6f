"""What is measured: one function a row, each beside its floor or its bound, in the same run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import inside
from benchmarks.stage import Wire, cpu_seconds, daemon, milliseconds, pss_kib, timed, until
from boxlited.supervisor.engines import bwrap_path
from tests.integration.daemon_harness import FOREVER, Daemon, kill_pid

SETTLE_SECONDS = 0.03  # the kernel clears a network namespace away after its last process has ended

Row = dict[str, Any]


def fsync_floor(scale: float) -> list[Row]:
    """What this disk takes for a small synced write: the floor of everything durable."""
    samples = []
    with daemon() as one:
        for number in range(int(200 * scale)):
            path = one.root / f"f{number}"
            samples.append(timed(lambda p=path: _synced(p)))  # type: ignore[misc]
    return [{"row": "fsync of a small file (floor)", **milliseconds(samples)}]


def _synced(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x" * 300)
    os.fsync(fd)
    os.close(fd)


def start(scale: float) -> list[Row]:
    """Request sent -> workload alive (it says so on a socket), against bubblewrap alone."""
    floor, alive, reply = [], [], []
    with daemon() as one, Wire(one.socket) as wire:
        inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        inbox.bind(str(one.root / "inbox"))
        inbox.settimeout(20)
        program = one.root / "hello"
        _compile_hello(program)
        volume = {"host_path": str(one.root), "guest_path": "/mnt"}
        command = ["/mnt/hello", "/mnt/inbox"]
        with inbox:
            for _ in range(int(60 * scale) + 5):
                time.sleep(SETTLE_SECONDS)
                floor.append(_bare_bwrap(one, inbox))
                box = wire.json("POST", "/v1/boxes", {"image": "host", "cmd": command, "volumes": [volume]})
                time.sleep(SETTLE_SECONDS)
                answered: list[float] = []
                alive.append(_start_and_hear(wire, box["box_id"], inbox, answered))
                reply += answered
                wire.json("DELETE", f"/v1/boxes/{box['box_id']}?force=true")
    ratio = round(milliseconds(alive)["median_ms"] / milliseconds(floor)["median_ms"], 2)
    return [
        {"row": "bare bwrap: start -> workload alive (floor)", **milliseconds(floor[5:])},
        {"row": "start: request -> workload alive", **milliseconds(alive[5:]), "ratio": ratio, "bound": "<= 3 x bwrap"},
        {"row": "start: request -> reply", **milliseconds(reply[5:])},
    ]


HELLO = """
#include <sys/socket.h>
#include <sys/un.h>
#include <string.h>
#include <unistd.h>
int main(int c, char **v) { struct sockaddr_un a = {.sun_family = AF_UNIX}; strncpy(a.sun_path, v[1], 100);
  int s = socket(AF_UNIX, SOCK_DGRAM, 0); sendto(s, "x", 1, 0, (void *)&a, sizeof a); for (;;) pause(); }
"""


def _compile_hello(target: Path) -> None:
    source = target.with_suffix(".c")
    source.write_text(HELLO)
    subprocess.run(["cc", "-O2", "-o", str(target), str(source)], check=True, timeout=60)


def _start_and_hear(wire: Wire, box_id: str, inbox: socket.socket, answered: list[float]) -> float:
    began = time.perf_counter()
    wire.send("POST", f"/v1/boxes/{box_id}/start")
    inbox.recv(10)
    heard = time.perf_counter() - began
    wire.receive()
    answered.append(time.perf_counter() - began)
    return heard


def _bare_bwrap(one: Daemon, inbox: socket.socket) -> float:
    argv = [*_bare_argv(), "--bind", str(one.root), "/mnt"]
    began = time.perf_counter()
    process = subprocess.Popen([*argv, "/mnt/hello", "/mnt/inbox"], stdin=subprocess.DEVNULL)
    inbox.recv(10)
    taken = time.perf_counter() - began
    process.kill()
    process.wait()
    return taken


def _bare_argv() -> list[str]:
    argv = [bwrap_path(), "--die-with-parent", "--unshare-all", "--new-session", "--ro-bind", "/usr", "/usr"]
    argv += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"]
    return [*argv, "--tmpfs", "/tmp", "--cap-drop", "ALL"]


def death(scale: float) -> list[Row]:
    """SIGKILL of the workload -> `failed` in the API, asked for all the time, or waited for; stop -> 200."""
    floor, seen, told, stopped = [], [], [], []
    with daemon() as one, Wire(one.socket) as wire:
        for _ in range(int(40 * scale) + 3):
            floor.append(_bare_death())
            box, workload = _run_a_while(wire)
            began = time.perf_counter()
            kill_pid(workload)
            _until_failed(one, wire, box["box_id"])
            seen.append(time.perf_counter() - began)
            box, workload = _run_a_while(wire)
            wire.send("POST", f"/v1/boxes/{box['box_id']}/wait")
            time.sleep(0.01)
            began = time.perf_counter()
            kill_pid(workload)
            wire.receive()
            told.append(time.perf_counter() - began)
            box = _run(wire)
            time.sleep(0.02)
            stopped.append(timed(lambda b=box: wire.json("POST", f"/v1/boxes/{b['box_id']}/stop")))  # type: ignore[misc]
    return [
        {"row": "bare bwrap: workload SIGKILLed -> bwrap has ended (floor)", **milliseconds(floor[3:])},
        {"row": "workload SIGKILLed -> failed in the API", **milliseconds(seen[3:]), "bound": "<= 5 ms"},
        {"row": "workload SIGKILLed -> who waits for it is told", **milliseconds(told[3:])},
        {"row": "stop of a prompt workload", **milliseconds(stopped[3:]), "bound": "<= 10 ms"},
    ]


def _run_a_while(wire: Wire) -> tuple[Row, int]:
    """A box that has been up for a while, as in life, and its workload's pid."""
    box = _run(wire)
    workload = until(lambda: _innermost(box["pid"]))
    time.sleep(0.02)
    return box, workload


def _bare_death() -> float:
    process = subprocess.Popen([*_bare_argv(), "--tmpfs", "/mnt", "/usr/bin/sleep", "1000"])
    try:
        workload = until(lambda: _innermost(process.pid, 2))
        time.sleep(0.02)
        began = time.perf_counter()
        kill_pid(workload)
        process.wait()
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def _until_failed(one: Daemon, wire: Wire, box_id: str) -> None:
    """Says what became of the box where it did not fail."""
    row: Row = {}

    def look() -> bool:
        row.update(wire.json("GET", f"/v1/boxes/{box_id}"))
        return bool(row["status"] == "failed")

    try:
        until(look)
    except TimeoutError:
        raise RuntimeError(f"a box whose workload was killed is not failed: {row}\n{one.log_text()[-4000:]}") from None


def _run(wire: Wire) -> Row:
    box: Row = wire.json("POST", "/v1/boxes", {"image": "host", "cmd": FOREVER})
    started: Row = wire.json("POST", f"/v1/boxes/{box['box_id']}/start")
    return started


def _innermost(pid: int, depth: int = 3) -> int | None:
    """The workload: third below the shim, after bubblewrap and its init."""
    for _ in range(depth):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not words:
                return None
            pid = int(words[0])
            continue
        return None
    return pid


def many(scale: float) -> list[Row]:
    """1,000 live boxes: memory, idle cost, list, one, and recovery after kill -9 of the daemon."""
    count = int(1000 * scale)
    with daemon() as one:
        with Wire(one.socket) as wire:
            pids = [_run(wire)["pid"] for _ in range(count)]
            rows = _read_rows(one, wire, count)
        assert one.process is not None
        daemon_pss = pss_kib(one.process.pid)
        shims = sorted(pss_kib(pid) for pid in pids[:: max(1, count // 50)])
        before = cpu_seconds(one.process.pid)
        time.sleep(20)
        idle = (cpu_seconds(one.process.pid) - before) / 20
        recovery = [_recover(one, count) for _ in range(3)]
    return [
        *rows,
        {"row": f"daemon PSS with {count} boxes", "value": f"{daemon_pss / 1024:.1f} MiB", "bound": "<= 60 MB"},
        {"row": "daemon idle", "value": f"{idle * 100:.2f} % of a core", "bound": "<= 1 %"},
        {"row": "shim PSS (median)", "value": f"{shims[len(shims) // 2] / 1024:.2f} MiB", "bound": "<= 1.5 MB"},
        {
            "row": f"kill -9, exec -> readyz with {count} live boxes",
            **milliseconds(recovery),
            "bound": "<= 1000 ms",
        },
    ]


def _read_rows(one: Daemon, wire: Wire, count: int) -> list[Row]:
    ids = [box["box_id"] for box in wire.json("GET", "/v1/boxes?pageSize=1000")["boxes"]]
    gets = [timed(lambda i=box_id: wire.call("GET", f"/v1/boxes/{i}")) for box_id in ids * 2]  # type: ignore[misc]
    lists = [timed(lambda: wire.call("GET", "/v1/boxes?pageSize=1000")) for _ in range(50)]
    return [
        {"row": "GET one box, kept alive", **milliseconds(gets), "bound": "<= 0.6 ms"},
        {"row": f"list of {len(ids)} boxes", **milliseconds(lists), "bound": "<= 30 ms"},
    ]


def _recover(one: Daemon, count: int) -> float:
    one.kill9()
    began = time.perf_counter()
    one.launch()
    until(lambda: _is_ready(one), 60)
    taken = time.perf_counter() - began
    with Wire(one.socket) as wire:
        boxes = wire.json("GET", "/v1/boxes?pageSize=1000")["boxes"]
    right = sum(1 for box in boxes if box["status"] == "running" and box["identity"] == "verified")
    if right != min(count, 1000):
        raise RuntimeError(f"only {right} of {count} boxes were recognised")
    return taken


def _is_ready(one: Daemon) -> bool:
    try:
        with Wire(one.socket) as wire:
            return wire.call("GET", "/readyz")[0] == 200
    except OSError:
        return False


CREATOR = """
import json, select, socket, sys
body = json.dumps({{"image": "host", "cmd": ["/bin/true"]}}).encode()
request = b"POST /v1/boxes HTTP/1.1\\r\\nHost: b\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body)
poll, clients = select.epoll(), {{}}
for _ in range({clients}):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect({socket!r})
    poll.register(sock, select.EPOLLIN)
    clients[sock.fileno()] = [sock, {each}, b""]
print("ready", flush=True)
sys.stdin.readline()
for client in clients.values():
    client[0].sendall(request)
while clients:
    for fd, _ in poll.poll():
        client = clients[fd]
        client[2] += client[0].recv(65536)
        if not client[2].endswith(b"}}"):  # a head without its body
            continue
        assert client[2].startswith(b"HTTP/1.1 201"), client[2]
        client[1:] = client[1] - 1, b""
        if client[1]:
            client[0].sendall(request)
        else:
            del clients[fd]
            poll.unregister(fd)
"""


def creates(scale: float) -> list[Row]:
    """Durable creates a second: 32 kept-alive connections that each wait for their reply, on the daemon's cores."""
    each = max(5, int(100 * scale))
    with daemon() as one:
        code = CREATOR.format(socket=str(one.socket), clients=32, each=each)
        crowd = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert crowd.stdout is not None
        crowd.stdout.readline()
        began = time.perf_counter()
        crowd.communicate("go\n", timeout=120)
        taken = time.perf_counter() - began
        if crowd.returncode != 0:
            raise RuntimeError("a create was refused")
        with Wire(one.socket) as wire:
            store = wire.json("GET", "/v1/metrics")["store"]
    rate = 32 * each / taken
    return [
        {
            "row": "durable creates, 32 clients",
            "value": f"{rate:.0f} /s (largest batch {store.get('largest_batch')})",
            "bound": ">= 1000 /s",
        }
    ]


ROWS: dict[str, Callable[[float], list[Row]]] = {
    "fsync": fsync_floor,
    "start": start,
    "death": death,
    "creates": creates,
    "many": many,
    "commands": inside.commands,
    "output": inside.output,
    "crowd": inside.crowd,
    "files": inside.files,
}
