"""One virtual machine: a QEMU process of ours, its disk, its console log, and the port where the guest acknowledges.

Owns the process and ends only it. A guest that does not come up in time is cut off and booted again; each such
try is counted and reported, never hidden. QEMU ends with the process that started it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.system.agent import Agent, GuestError
from tests.system.guest import Guest
from tests.system.image import Image
from tests.system.steps import Steps

BOOT_SECONDS = 120.0
BOOT_TRIES = 3
STOP_SECONDS = 180.0
MEMORY_MIB = 1536
BOARD = "q35,hpet=off,smbus=off,sata=off,usb=off,vmport=off"
COMMAND_LINE = (
    "console=ttyS0 rw rootfstype=ext4 panic=10 quiet loglevel=4 mitigations=off nokaslr"
    " tsc=unstable clocksource=acpi_pm"  # the clock of a guest that calibrated itself on a busy host runs too fast
    " random.trust_cpu=on audit=0 apparmor=0 net.ifnames=0 systemd.show_status=0"
)


def processors() -> int:
    """BOXLITED_VM_CPUS, or two where there are two."""
    return int(os.environ.get("BOXLITED_VM_CPUS") or min(2, os.cpu_count() or 1))


class Machine:
    """`guest` speaks to the system inside. Use as a context manager, or `close`."""

    def __init__(self, image: Image, directory: Path, steps: Steps) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._image = image
        self._directory = directory
        self._steps = steps
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.disk = directory / "disk"
        self.console = directory / "console.log"
        self.acknowledged = directory / "acknowledged"
        self._agent = Agent(directory / "agent.sock")
        self.guest = Guest(self._agent, self.require_alive)
        image.copy_disk(self.disk)
        self.acknowledged.touch()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- life

    def boot(self, what: str = "boot") -> None:
        """Switch on and wait for the guest's first answer."""
        self._steps.counts["boots that hung"] += 0  # reported also when there was none
        for attempt in range(1, BOOT_TRIES + 1):
            self._steps.counts["boots"] += 1
            try:
                with self._steps.step(what if attempt == 1 else f"{what}, try {attempt}"):
                    self._switch_on()
                    self._agent.connect(BOOT_SECONDS, self.require_alive)
                return
            except GuestError:
                self._steps.counts["boots that hung"] += 1
                self._steps.say(f"the console's last words: {self.console_tail(300)!r}")
                self.cut()
        raise GuestError(f"the guest did not boot in {BOOT_TRIES} tries")

    def cut(self) -> None:
        """The power is gone: whatever the guest had not made durable is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def reboot(self) -> None:
        """`systemctl reboot`, until the system of the next boot answers."""
        before = self.guest.boot_id()
        self._steps.counts["reboots"] += 1
        self._agent.call("guest-exec", path="/bin/systemctl", arg=["reboot"])
        end = time.monotonic() + STOP_SECONDS + BOOT_SECONDS
        while time.monotonic() < end:
            try:
                self._agent.connect(5.0, self.require_alive)
                if self.guest.boot_id() != before:
                    return
            except GuestError:
                self.require_alive()
            time.sleep(0.2)
        raise GuestError("the guest did not come back from its reboot")

    def power_off(self) -> bool:
        """An orderly end; True when it was one."""
        assert self._process is not None
        self._agent.call("guest-exec", path="/bin/systemctl", arg=["poweroff"])
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.cut()
            return False
        self._forget()
        return True

    def close(self) -> None:
        self.cut()
        self.disk.unlink(missing_ok=True)

    def require_alive(self) -> None:
        if self._process is None:
            raise GuestError("the machine is switched off")
        if self._process.poll() is not None:
            errors = (self._directory / "qemu.log").read_text(errors="replace")[-500:]
            raise GuestError(f"QEMU ended with {self._process.returncode}: {errors}")

    def console_tail(self, length: int) -> str:
        return self.console.read_text(errors="replace")[-length:].strip() if self.console.exists() else ""

    # -- the process

    def _switch_on(self) -> None:
        for name in ("agent.sock", "console.log"):
            (self._directory / name).unlink(missing_ok=True)
        self._errors = (self._directory / "qemu.log").open("ab")
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,
        )

    def _command(self) -> list[str]:
        words = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
        words += ["-nodefaults", "-no-user-config", "-display", "none", "-M", BOARD, "-cpu", "max"]
        words += ["-accel", "tcg,thread=multi,tb-size=256", "-smp", str(processors()), "-m", str(MEMORY_MIB)]
        words += ["-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", COMMAND_LINE]
        words += ["-drive", f"if=none,format=raw,cache=writethrough,id=root,file={self.disk}"]
        words += ["-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        words += ["-chardev", f"socket,id=agent,path={self._directory / 'agent.sock'},server=on,wait=off"]
        words += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        words += ["-chardev", f"file,id=acknowledged,path={self.acknowledged},append=on"]
        words += ["-device", "virtserialport,chardev=acknowledged,name=boxlited.acknowledged"]
        return [*words, "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"]

    def _forget(self) -> None:
        self._agent.close()
        if self._errors is not None:
            self._errors.close()
        self._process = self._errors = None


@contextmanager
def booted(image: Image, directory: Path, steps: Steps) -> Iterator[Machine]:
    """A machine of its own, switched on."""
    with Machine(image, directory, steps) as machine:
        machine.boot()
        yield machine
