"""`systemctl stop`: the boxes live on, or are drained, as the configuration says; and it is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.boxes import Boxes
from tests.system.guest import Guest
from tests.system.steps import Steps

pytestmark = pytest.mark.timeout(600)

CONFIG = "/etc/boxlited/boxlited.toml"
ENDS_WELL = ["/bin/sh", "-c", "trap 'echo goodbye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"]


@pytest.fixture
def draining(guest: Guest) -> Iterator[None]:
    guest.run(f"cp {CONFIG} /root/packaged.toml; sed -i 's/^on_stop = .*/on_stop = \"drain\"/' {CONFIG}")
    guest.run(f"grep -q drain {CONFIG} && boxlited check-config {CONFIG} && systemctl restart boxlited")
    yield
    guest.run(f"mv /root/packaged.toml {CONFIG}; systemctl restart boxlited")


def test_boxes_survive_a_stop_and_it_is_said(guest: Guest, boxes: Boxes, steps: Steps) -> None:
    running = [boxes.run(), boxes.run()]
    before, cursor, last = boxes.look(), guest.journal_cursor(), boxes.last_event()
    processes = {name for box in running for name in boxes.processes(box)}
    with steps.step("stop"):
        guest.run("systemctl stop boxlited")
    assert guest.unit("ActiveState", "MainPID") == {"ActiveState": "inactive", "MainPID": "0"}
    assert "boxes live on" in guest.journal(since=cursor)
    assert processes <= {(process.pid, process.started) for process in guest.processes().values()}
    with steps.step("start"):
        guest.run("systemctl start boxlited")
    boxes.check(before)
    kinds = [event["kind"] for event in boxes.events(last)]
    assert kinds[0] == "daemon_stopped"
    assert "daemon_started" in kinds
    assert not {"stopped", "failed"} & set(kinds)


def test_stopped_service_is_started_by_a_request(guest: Guest, boxes: Boxes) -> None:
    guest.run("systemctl stop boxlited")
    assert guest.main_pid() == 0
    assert boxes.is_ready()
    assert guest.main_pid() != 0


@pytest.mark.usefixtures("draining")
def test_boxes_are_drained_by_a_stop_and_it_is_said(guest: Guest, boxes: Boxes, steps: Steps) -> None:
    plain, polite = boxes.run(restart={"policy": "always"}), boxes.run(ENDS_WELL)
    guest.until(lambda: "hello" in boxes.console(polite["box_id"]), "the workload runs")
    cursor, last = guest.journal_cursor(), boxes.last_event()
    processes = {name for box in (plain, polite) for name in boxes.processes(box)}
    with steps.step("stop"):
        guest.run("systemctl stop boxlited")
    assert not processes & {(process.pid, process.started) for process in guest.processes().values()}
    assert "boxes were drained" in guest.journal(since=cursor)
    with steps.step("start"):
        guest.run("systemctl start boxlited")
    for box in (plain, polite):
        row = boxes.get(box["box_id"])
        assert (row["status"], row["stop_cause"], row["desired"]) == ("stopped", "drained", "stopped")
    assert "goodbye" in boxes.console(polite["box_id"])
    stopped = {event["box_id"] for event in boxes.events(last) if event["kind"] == "stopped"}
    assert stopped == {plain["box_id"], polite["box_id"]}
