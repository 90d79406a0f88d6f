"""Who forks has one thread: the spawner is executed before the daemon has a second one, and stays alone itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.daemon_harness import Daemon
from tests.integration.processes import spawner_of

COUNT = """
import os, sys
from boxlited.cli.boxlited import main
from boxlited.supervisor.spawn import Spawner
launch = Spawner.launch
def counted(self):
    print("threads", len(os.listdir("/proc/self/task")), flush=True)
    launch(self)
    os.kill(os.getpid(), 15)
Spawner.launch = counted
main(sys.argv[1:])
"""


def test_the_spawner_is_executed_before_the_daemon_has_a_second_thread(tmp_path: Path) -> None:
    argv = ["serve", "--home", str(tmp_path / "home"), "--socket", str(tmp_path / "s"), "--log-level", "error"]
    run = subprocess.run([sys.executable, "-c", COUNT, *argv], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "threads 1\n", run.stderr


def test_spawner_and_shims_have_one_thread_while_boxes_come_and_go() -> None:
    with Daemon() as daemon:
        daemon.start()
        for _ in range(3):
            daemon.client.stop(daemon.run()["box_id"])
        shim = daemon.run()["pid"]
        assert len(os.listdir(f"/proc/{spawner_of(daemon)}/task")) == 1
        assert len(os.listdir(f"/proc/{shim}/task")) == 1
