"""A real daemon that listens on a port with a token, as SDKs and tools need it. Holds no tests."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.integration.daemon_harness import Daemon, until

TOKEN = "a-token-of-the-contract-tests"


@dataclass(frozen=True)
class Listening:
    daemon: Daemon
    url: str

    def get(self, path: str) -> Any:
        """The JSON of a GET over the port."""
        return self._ask(path, None)

    def post(self, path: str, body: object) -> Any:
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, body, {"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def serves(self, method: str, path: str) -> bool:
        """Whether the daemon's own document has this operation, and with a good end."""
        operation = self.get("/v1/openapi.json")["paths"].get(path, {}).get(method.lower(), {})
        return any(status < "4" for status in operation.get("responses", {}))


@contextmanager
def listening() -> Iterator[Listening]:
    with Daemon() as daemon:
        token = daemon.root / "token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        daemon.start(arguments=["--listen", "127.0.0.1:0", "--token-file", str(token)])
        found = until(lambda: re.search(r"http://[0-9.]+:\d+", daemon.log_text()), "the address is in the log")
        assert found is not None
        yield Listening(daemon, found[0])
