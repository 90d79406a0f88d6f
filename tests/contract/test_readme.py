"""The curl commands of the README work, in the order in which they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contract.listening import Listening

README = Path(__file__).parents[2] / "README.md"
COMMANDS = [
    line.strip() for line in README.read_text().splitlines() if line.startswith("    ") and "curl --unix" in line
]
# what the shell is given beside: fail on an HTTP error, and say on stderr what was answered
TELLING = r"curl --fail-with-body -sS -w '%{stderr}%{http_code} %{content_type}\n' "


def operation(command: str) -> tuple[str, str]:
    """Method and path, as the route table has them."""
    method = re.search(r"-X (\w+)", command.replace("-T -", "-X PUT"))
    path = re.search(r"http://localhost(/[\w/.-]*)", command)
    assert path is not None, command
    return method[1] if method is not None else "GET", path[1].replace("/boxes/web", "/boxes/{ref}")


def test_the_commands_show_every_kind_of_call() -> None:
    shown = {operation(command) for command in COMMANDS}
    for wanted in ("POST /v1/boxes/{ref}/exec", "PUT /v1/boxes/{ref}/files", "DELETE /v1/boxes/{ref}"):
        assert tuple(wanted.split()) in shown


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_do_what_they_say(served: Listening, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes").write_text("kept\n")
    for command in COMMANDS:
        method, path = operation(command)
        if not served.serves(method, path):
            continue  # in the contract, not in this version
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.replace("curl ", TELLING, 1)],
            cwd=tmp_path, env={**os.environ, "BOXLITED_SOCKET": str(served.daemon.socket)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if method == "PUT":
            shutil.rmtree(tmp_path / "project")  # it is to come back out of the box
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        status, _, content_type = done.stderr.strip().partition(" ")
        if content_type == "application/json":
            assert isinstance(json.loads(done.stdout), dict | list), command
        elif content_type == "application/x-tar":
            assert (tmp_path / "project" / "notes").read_text() == "kept\n"
        else:
            assert (status, done.stdout) == ("204", ""), command
    assert served.daemon.client.list() == []
