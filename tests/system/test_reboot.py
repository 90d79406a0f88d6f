"""A reboot: every box is dead, is known to be, and is started again where its policy says so."""

from __future__ import annotations

import pytest

from tests.system.boxes import Boxes
from tests.system.machine import Machine
from tests.system.steps import Steps

pytestmark = pytest.mark.timeout(900)


def test_reboot_loses_nothing_and_policies_act(machine: Machine, boxes: Boxes, steps: Steps) -> None:
    guest = machine.guest
    names = {
        "plain": boxes.run(name="plain"),
        "always": boxes.run(name="always", restart={"policy": "always"}),
        "rests": boxes.create(name="rests"),
        "ended": boxes.ended(boxes.run(["/bin/sh", "-c", "exit 3"], name="ended")["box_id"]),
    }
    boxes.ask("POST", f"/v1/boxes/{boxes.run(name='by-user', restart={'policy': 'always'})['box_id']}/stop")
    before, events, boot = boxes.all(), boxes.events(), guest.boot_id()
    with steps.step("reboot"):
        machine.reboot()
    with steps.step("daemon ready"):
        guest.until(boxes.is_ready, "the daemon is ready")
    assert guest.boot_id() != boot
    assert boxes.all().keys() == before.keys()
    again = boxes.until("always", "running")
    assert again["run_id"] != names["always"]["run_id"]
    assert "sleep" in boxes.processes(again).values()
    states = {name: _state(boxes, name) for name in ("plain", "rests", "ended", "by-user")}
    assert states == {
        "plain": ("stopped", "host_rebooted"),
        "rests": ("configured", None),
        "ended": ("stopped", "exited"),
        "by-user": ("stopped", "user"),
    }
    assert boxes.events()[: len(events)] == events
    told = {(event["name"], event["kind"]) for event in boxes.events(events[-1]["seq"])}
    assert {("plain", "stopped"), ("always", "stopped"), ("always", "started")} <= told


def _state(boxes: Boxes, name: str) -> tuple[str, str | None]:
    row = boxes.get(name)
    return row["status"], row["stop_cause"]
