"""One image for the run, one machine for the tests that share it; a failed test shows the guest's journal."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.system.boxes import Boxes
from tests.system.guest import Guest
from tests.system.image import CannotBuild, Image, prepare
from tests.system.machine import Machine, booted
from tests.system.steps import Steps

JOURNAL_BYTES = 12_000
STEPS = pytest.StashKey[Steps]()
OPEN: list[Machine] = []


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STEPS] = Steps()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    steps = config.stash[STEPS]
    terminalreporter.section("system test")
    for name, count in sorted(steps.counts.items()):
        terminalreporter.line(f"{name}: {count}")
    terminalreporter.line(f"total: {steps.seconds:.0f} s")


@pytest.fixture(scope="session")
def steps(pytestconfig: pytest.Config) -> Steps:
    return pytestconfig.stash[STEPS]


@pytest.fixture(scope="session")
def image(steps: Steps) -> Image:
    try:
        return prepare(steps)
    except CannotBuild as error:
        pytest.fail(f"no virtual machine: {error}", pytrace=False)


@pytest.fixture(scope="session")
def shared(image: Image, steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Switched on once. A test may restart and reboot it; it leaves the daemon running."""
    with booted(image, tmp_path_factory.mktemp("shared"), steps) as machine:
        OPEN.append(machine)
        yield machine
        OPEN.remove(machine)


@pytest.fixture
def machine(shared: Machine) -> Machine:
    """The shared machine with the packaged configuration, its daemon up, and no box."""
    guest = shared.guest
    guest.run("systemctl start boxlited.socket boxlited-ro.socket boxlited.service")
    Boxes(guest).remove_all()
    return shared


@pytest.fixture
def guest(machine: Machine) -> Guest:
    return machine.guest


@pytest.fixture
def boxes(guest: Guest) -> Boxes:
    return Boxes(guest)


@pytest.fixture(autouse=True)
def _say_which(request: pytest.FixtureRequest, steps: Steps) -> None:
    steps.say(f"-- {request.node.name.removeprefix('test_').replace('_', ' ')}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when in ("setup", "call"):
        for machine in OPEN:
            report.sections.append(("console of the guest", machine.console_tail(3000)))
            report.sections.append(("the guest's journal of boxlited", _journal(machine)))
    return report


def _journal(machine: Machine) -> str:
    try:
        return machine.guest.journal()[-JOURNAL_BYTES:]
    except Exception as error:
        return f"cannot be had: {error}"
