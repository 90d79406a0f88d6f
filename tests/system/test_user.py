"""The daemon of an ordinary user, as a service of `systemd --user`: the same promises without root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.agent import GuestError
from tests.system.boxes import Boxes
from tests.system.guest import Guest
from tests.system.steps import Steps
from tests.system.test_limits import FORKS, HOG, OURS, limit

pytestmark = pytest.mark.timeout(600)

USER = 1000
HOME = "/home/ordinary/.local/share/boxlited"
RUNTIME = f"/run/user/{USER}"
AS_USER = f"runuser -u ordinary -- env HOME=/home/ordinary XDG_RUNTIME_DIR={RUNTIME}"


@pytest.fixture
def own(guest: Guest) -> Iterator[Boxes]:
    """The boxes of the ordinary user's daemon."""
    guest.run(f"systemctl start user@{USER}.service; {AS_USER} systemctl --user start boxlited")
    boxes = Boxes(guest, f"{RUNTIME}/boxlited/boxlited.sock", AS_USER, HOME, f"{AS_USER} systemctl --user")
    yield boxes
    boxes.remove_all()
    guest.run(f"{AS_USER} systemctl --user stop boxlited; systemctl stop user@{USER}.service")


def test_limits_of_an_ordinary_users_boxes_are_in_the_files_of_the_kernel(guest: Guest, own: Boxes) -> None:
    box = own.run(memory_mib=64, pids=20, cpus=0.5)
    assert box["not_applied"] == []
    found = [limit(guest, box, name) for name in ("memory.max", "pids.max", "cpu.max")]
    assert found == [str(64 << 20), str(20 + OURS), "50000 100000"]
    owners = {guest.say(f"stat -c %u /proc/{pid}") for pid, _started in own.processes(box)}
    assert owners == {str(USER)}


def test_limits_of_an_ordinary_users_boxes_bite(own: Boxes) -> None:
    hog, forks = own.run(HOG, memory_mib=48), own.run(FORKS, pids=4)
    row = own.ended(hog["box_id"])
    assert (row["status"], row["stop_cause"]) == ("failed", "oom")
    assert own.ended(forks["box_id"])["exit_code"] != 0


def test_boxes_of_an_ordinary_user_live_through_restart_and_kill(guest: Guest, own: Boxes, steps: Steps) -> None:
    own.run()
    own.run()
    before = own.look()
    with steps.step("restart"):
        guest.run(f"{AS_USER} systemctl --user restart boxlited")
    own.check(before)
    with steps.step("kill"):
        guest.run(f"{AS_USER} systemctl --user kill --kill-whom=main -s KILL boxlited")
        guest.until(lambda: _is_up(own), "the daemon is ready again")
    own.check(before)


def _is_up(own: Boxes) -> bool:
    """A daemon without socket activation refuses while it is away."""
    try:
        return own.is_ready()
    except GuestError:
        return False
