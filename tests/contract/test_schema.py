"""The daemon and its own OpenAPI document agree: Schemathesis asks with all of its checks, over the listener.

What is left out, and why: schemathesis.toml and schema_hooks.py beside this file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.listening import TOKEN, Listening
from tests.integration.daemon_harness import FOREVER

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LEFT_OUT = {"/v1/events", "/v1/boxes/{ref}/executions/{execution_id}/attach"}  # see schemathesis.toml
LIMIT_SECONDS = 150
EXAMPLES = "5"  # beside all that its coverage phase makes up

Document = dict[str, Any]


@pytest.fixture(scope="module")
def populated(served: Listening) -> Listening:
    """Boxes in every state that the paths of the run can hit, and some that may be removed."""
    daemon = served.daemon
    for name in ("inhabited", "configured", "running", "stopped", *(f"doomed-{number}" for number in range(1, 7))):
        daemon.create(FOREVER, name=name)
    daemon.client.start("running")
    daemon.client.start("stopped")
    daemon.client.stop("stopped")
    daemon.run(["/bin/false"], name="failed")
    daemon.wait_status("failed", "failed", "stopped")
    return served


def ask(served: Listening, document: Document, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Schemathesis against the daemon, with this document for the truth."""
    path = served.daemon.root / "openapi.json"
    path.write_text(json.dumps(document))
    config = served.daemon.root / "schemathesis.toml"
    config.write_text((HERE / "schemathesis.toml").read_text().replace('"an-execution"', executions(served)))
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color"]
    argv += ["run", "--checks", "all", "--url", served.url, *arguments, str(path)]
    env = {**os.environ, "BOXLITED_TOKEN": TOKEN, "COLUMNS": "200"}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)


def executions(served: Listening) -> str:
    """Ids of commands that go on, for the list in the configuration; of none where there are no commands."""
    if not served.serves("POST", "/v1/boxes/{ref}/exec"):
        return '"none"'
    body = {"command": FOREVER[0], "args": FOREVER[1:]}
    ids = [served.post("/v1/boxes/inhabited/exec", body)["execution_id"] for _ in range(6)]
    return ", ".join(f'"{execution_id}"' for execution_id in ids)


def operations(document: Document) -> int:
    return sum(len(methods) for path, methods in document["paths"].items() if path not in LEFT_OUT)


def test_the_daemon_keeps_every_promise_of_its_document(populated: Listening) -> None:
    document = populated.get("/v1/openapi.json")
    done = ask(populated, document, "--max-examples", EXAMPLES)
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    cases = re.search(r"(\d+) generated", done.stdout)
    assert tested is not None
    assert cases is not None
    assert int(tested[1]) == operations(document)
    assert int(cases[1]) > 15 * operations(document)
    assert "api_bug" not in populated.daemon.log_text()


def _other_type(document: Document) -> None:
    document["components"]["schemas"]["Box"]["properties"]["labels"] = {"type": "array"}


def _no_conflict(document: Document) -> None:
    del document["paths"]["/v1/boxes"]["post"]["responses"]["409"]


def _less_goes(document: Document) -> None:
    document["components"]["schemas"]["CreateBody"]["properties"]["pids"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": 5,
    }


@pytest.mark.parametrize(
    ("falsify", "method", "word"),
    [(_other_type, "GET", "labels"), (_no_conflict, "POST", "Received: 409"), (_less_goes, "POST", "ST201")],
)  # fmt: skip
def test_a_promise_that_is_not_kept_is_seen(
    populated: Listening, falsify: Callable[[Document], None], method: str, word: str
) -> None:
    document = populated.get("/v1/openapi.json")
    falsify(document)
    done = ask(populated, document, "--include-name", f"{method} /v1/boxes", "--phases", "coverage")
    assert done.returncode == 1, done.stdout[-4000:]
    assert word in done.stdout, done.stdout[-4000:]
