"""Commands in boxes, with the service around them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.boxes import Boxes, Row
from tests.system.guest import Guest

pytestmark = pytest.mark.timeout(600)


def execute(boxes: Boxes, box: Row, command: str, *args: str, **more: Any) -> str:
    """The path of the execution."""
    body = {"command": command, "args": args, **more}
    started = boxes.ask("POST", f"/v1/boxes/{box['box_id']}/exec", body)
    return f"/v1/boxes/{box['box_id']}/executions/{started['execution_id']}"


def ended(guest: Guest, boxes: Boxes, path: str) -> tuple[str, int]:
    guest.until(lambda: boxes.ask("GET", path)["status"] != "running", f"{path} ends")
    found = boxes.ask("GET", path)
    return found["status"], found["exit_code"]


def test_command_runs_in_the_box_and_its_end_is_told(guest: Guest, boxes: Boxes) -> None:
    box = boxes.run(["/bin/sh", "-c", "until test -e /root/asked; do sleep 0.1; done; echo seen; sleep 987654"])
    path = execute(boxes, box, "sh", "-c", "touch /root/asked; exit 7")
    assert ended(guest, boxes, path) == ("completed", 7)
    guest.until(lambda: "seen" in boxes.console(box["box_id"]), "the workload sees what the command did")


def test_command_lives_on_while_the_daemon_is_replaced(guest: Guest, boxes: Boxes) -> None:
    box = boxes.run()
    path = execute(boxes, box, "sleep", "987655")
    before = boxes.processes(box)
    guest.run("systemctl restart boxlited")
    assert boxes.ask("GET", path)["status"] == "running"
    assert boxes.processes(box) == before
    boxes.ask("POST", f"{path}/signal", {"signal": 15})
    assert ended(guest, boxes, path)[1] == 128 + 15


def test_command_with_a_time_limit_is_ended_by_it(guest: Guest, boxes: Boxes) -> None:
    path = execute(boxes, boxes.run(), "sleep", "987656", timeout_seconds=0.5)
    assert ended(guest, boxes, path)[0] == "timed_out"


def test_command_that_takes_too_much_memory_is_under_the_limit_of_its_box(guest: Guest, boxes: Boxes) -> None:
    box = boxes.run(memory_mib=48)
    path = execute(boxes, box, "sh", "-c", "x=x; while :; do x=$x$x; done")
    guest.until(lambda: _is_over(boxes, box, path), "the kernel ends the command or its box")
    assert "oom-kill:constraint=CONSTRAINT_MEMCG" in guest.say("journalctl -q -k -b --no-pager")


def _is_over(boxes: Boxes, box: Row, path: str) -> bool:
    return boxes.get(box["box_id"])["status"] != "running" or boxes.ask("GET", path)["status"] != "running"


def test_boxctl_exec_gives_the_commands_own_output_and_code(guest: Guest, boxes: Boxes) -> None:
    box = boxes.run()
    done = guest.run(f"boxctl exec {box['name']} -- sh -c 'echo out; echo err >&2; exit 5'", check=False)
    assert (done.code, done.out, done.err) == (5, "out\n", "err\n")
