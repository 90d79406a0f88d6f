"""The daemon as a system user of its own, by the drop-in that is shipped for it: not one capability, and a box runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.boxes import HOME, Boxes
from tests.system.guest import REPOSITORY, Guest
from tests.system.steps import Steps

pytestmark = pytest.mark.timeout(600)

SHIPPED = REPOSITORY / "systemd" / "boxlited-unprivileged.conf"
DROP_IN = "/etc/systemd/system/boxlited.service.d/unprivileged.conf"
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
STORY = ["/bin/sh", "-c", "echo hello; exec sleep 987654"]


@pytest.fixture
def dedicated(guest: Guest) -> Iterator[Guest]:
    """As the drop-in's own text says; afterwards everything is root's again."""
    guest.run("systemctl stop boxlited")
    guest.put(DROP_IN, SHIPPED.read_text())
    guest.run(f"chown -R boxlited: {HOME}; systemctl daemon-reload; systemctl start boxlited")
    yield guest
    Boxes(guest).remove_all()
    guest.run(f"systemctl stop boxlited; rm -r $(dirname {DROP_IN}); chown -R root: {HOME}")
    guest.run("systemctl daemon-reload; systemctl start boxlited")


def test_a_user_without_any_capability_serves_boxes(dedicated: Guest, boxes: Boxes, steps: Steps) -> None:
    user = dedicated.say("id -u boxlited")
    assert user != "0"
    assert rights(dedicated, dedicated.main_pid()) == (user, {"0" * 16})
    box = boxes.run(STORY)
    dedicated.until(lambda: "hello" in boxes.console(box["box_id"]), "the workload speaks")
    for pid, _started in boxes.processes(box):
        assert dedicated.say(f"stat -c %u /proc/{pid}") == user
    before = boxes.look()
    for what in ("restart", "kill --kill-whom=main -s KILL"):
        with steps.step(what):
            dedicated.run(f"systemctl {what} boxlited")
            dedicated.until(boxes.is_ready, "the daemon is ready again")
        boxes.check(before)
    assert boxes.ask("POST", f"/v1/boxes/{box['box_id']}/stop")["status"] == "stopped"


def test_limits_that_such_a_user_cannot_have_are_said(dedicated: Guest, boxes: Boxes) -> None:
    box = boxes.run(memory_mib=64)
    assert box["not_applied"] != []
    assert dedicated.say(f"stat -c '%U %a' {HOME}") == "boxlited 700"


def rights(guest: Guest, pid: int) -> tuple[str, set[str]]:
    """The effective user, and every set of capabilities."""
    status = dict(line.split(":\t", 1) for line in guest.say(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    return status["Uid"].split()[1], {status[name].strip() for name in CAPABILITIES}
