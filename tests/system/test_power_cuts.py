"""The power goes while 32 clients create boxes. After the next boot everything acknowledged is there, and nothing half.

CUTS says how often (20 otherwise), SEED when. A cut is the end of QEMU: what the guest's kernel had not been told to
make durable is lost. The host's disk and its write cache are not tested by this.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.oracle import broken, changed
from tests.system.boxes import Boxes
from tests.system.conftest import OPEN
from tests.system.image import Image
from tests.system.machine import Machine, booted
from tests.system.steps import Steps
from tests.system.verdict import CUT, Ledger, half_there, lost, world

CUTS = int(os.environ.get("CUTS") or 20)
CLIENTS = 32
FIRST_WORDS_SECONDS = 120.0
LONGEST_SECONDS = 4.0  # of load before the cut
# The kernel syncs nothing by itself.
PATIENT = "mount -o remount,commit=300 / && sysctl -w vm.dirty_writeback_centisecs=0"
WITHOUT_SYNC = "[Service]\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libeatmydata.so\n"

Row = dict[str, Any]


@pytest.fixture
def machine(image: Image, steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One of its own, because it does not end well."""
    with booted(image, tmp_path_factory.mktemp("power"), steps) as machine:
        OPEN.append(machine)
        yield machine
        OPEN.remove(machine)


def acknowledgements(machine: Machine) -> int:
    return machine.acknowledged.read_bytes().count(b"\n")


def load_and_cut(machine: Machine, number: int, seconds: float) -> int:
    """Returns how many acknowledgements came in this round."""
    before = acknowledgements(machine)
    load = machine.guest.begin(f"exec {machine.guest.program('creating.py')} {number} {CLIENTS}", 600)
    end = time.monotonic() + FIRST_WORDS_SECONDS
    while acknowledgements(machine) < before + CLIENTS:
        assert time.monotonic() < end, "the clients get no reply"
        time.sleep(0.02)
    time.sleep(seconds)
    machine.cut()
    assert load
    heard = acknowledgements(machine) - before
    with machine.acknowledged.open("a") as file:
        file.write(f"\n{CUT}\n")  # the last line may be half a one
    return heard


def judge(machine: Machine, ledger: Ledger) -> tuple[Row, list[str]]:
    """What is there after the boot, and what is wrong with it, now and after one more restart without a fault."""
    machine.guest.run("systemctl start boxlited", 300)  # waits for the start that the boot began
    boxes = Boxes(machine.guest)
    stock, before = boxes.look_closely()
    machine.guest.run("systemctl kill --kill-whom=main -s KILL boxlited; systemctl start boxlited", 300)
    machine.guest.until(boxes.is_ready, "the daemon is ready again")
    after = boxes.look()
    found = lost(ledger, stock) + half_there(stock) + broken(before, ledger.promised())
    return stock, found + broken(after, ledger.promised()) + changed(before, after)


@pytest.mark.timeout(300 + 240 * CUTS)
def test_power_cuts_lose_nothing_that_was_acknowledged(machine: Machine, steps: Steps) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    moments = random.Random(seed)
    steps.say(f"{CUTS} cuts, SEED={seed}")
    violations: list[str] = []
    for number in range(1, CUTS + 1):
        seconds = moments.uniform(0.0, LONGEST_SECONDS)
        with steps.step(f"cut {number} of {CUTS}, {seconds:.1f} s into the load"):
            heard = load_and_cut(machine, number, seconds)
        machine.boot(f"boot after cut {number}")
        ledger = Ledger.read(machine.acknowledged.read_text())
        with steps.step("judged, with one more restart"):
            stock, problems = judge(machine, ledger)
        found = [f"cut {number}: {text}" for text in problems]
        report(steps, ledger, stock, heard, found)
        violations += found
    assert violations == []
    assert steps.counts["power cuts"] >= CUTS


def report(steps: Steps, ledger: Ledger, stock: Row, heard: int, found: list[str]) -> None:
    steps.counts["power cuts"] += 1
    steps.counts["acknowledgements before power cuts"] += heard
    steps.counts["violations after power cuts"] += len(found)
    unpromised = sum(row["box_id"] not in ledger.created for row in stock["rows"])
    steps.say(
        f"{heard} acknowledgements; {len(stock['rows'])} boxes ({unpromised} of them not acknowledged),"
        f" {len(stock['events'])} events; violations: {len(found)}"
    )
    for text in found[:5]:
        steps.say(f"VIOLATION {text}")


@pytest.mark.timeout(900)
def test_lost_acknowledgements_would_be_seen(machine: Machine, steps: Steps) -> None:
    """The same without the syncs: the judge must find what is lost."""
    machine.guest.put("/etc/systemd/system/boxlited.service.d/without-sync.conf", WITHOUT_SYNC)
    machine.guest.run("sync; systemctl daemon-reload; systemctl restart boxlited")
    machine.guest.run(f"sync; {PATIENT}")
    with steps.step("cut of a daemon that does not sync"):
        heard = load_and_cut(machine, 1, 0.0)
    machine.boot("boot after the cut")
    machine.guest.run("rm -r /etc/systemd/system/boxlited.service.d; systemctl daemon-reload")
    machine.guest.run("systemctl restart boxlited")
    ledger = Ledger.read(machine.acknowledged.read_text())
    missing = broken(world(Boxes(machine.guest).take_stock()), ledger.promised())
    steps.say(f"{heard} acknowledgements, {len(missing)} do not hold, such as: {missing[:1]}")
    assert any("is lost" in text for text in missing)
