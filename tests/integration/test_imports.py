"""What a program loads is what it needs: memory of every shim, and the time until an answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import fake_daemon
from tests.unit.fake_daemon import FakeDaemon

WEB = "webaaaaaaaaaaaaa"
SECONDS = 60


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon.serving(tmp_path / "d.sock") as daemon:
        daemon.add(WEB, "web")
        yield daemon


def test_ps_starts_without_what_only_a_conversation_needs(fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXLITED_SOCKET", str(fake.socket))
    script = (
        "import sys\nfrom boxlited.cli import boxctl\n"
        "try:\n    boxctl.main(['ps'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'wsproto', 'h11', 'anyio', 'rich.live', 'tarfile', 'trio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr


def test_the_client_imports_nothing_of_the_daemon_and_nothing_heavy(fake: FakeDaemon) -> None:
    """Not at its import and not by a plain call."""
    program = (
        "import sys, boxlited.client\n"
        "assert len(boxlited.client.Client(sys.argv[1]).list()) == 1\n"
        "rooms = tuple('boxlited.' + r for r in ('store', 'supervisor', 'api', 'daemon', 'config'))\n"
        "heavy = ('httpx', 'trio', 'msgspec', 'rich', 'wsproto', 'h11', 'anyio', 'asyncio', 'tarfile')\n"
        "bad = [m for m in sys.modules if m in heavy or m.startswith(rooms)]\n"
        "sys.exit(str(bad) if bad else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(fake.socket)], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr


def test_what_the_spawner_loads_is_the_standard_library_and_light() -> None:
    """Every module here is memory of every shim."""
    script = (
        "import sys; before = set(sys.modules);"
        "import boxlited.supervisor.pidfile, boxlited.supervisor.exitfile;"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS, check=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - {"boxlited"} <= sys.stdlib_module_names
    assert not roots & {"dataclasses", "asyncio", "ctypes", "inspect", "logging", "subprocess"}
