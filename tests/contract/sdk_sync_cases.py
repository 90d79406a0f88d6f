"""The synchronous face of the published SDK: the same daemon, without an event loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boxlite
import pytest
from boxlite.sync_api import SyncBoxlite

from tests.contract.listening import TOKEN, Listening
from tests.contract.sdk import FOREVER, needs


@pytest.fixture
def rest(served: Listening) -> Iterator[Any]:
    options = boxlite.BoxliteRestOptions(url=served.url, credential=boxlite.ApiKeyCredential(TOKEN))
    with SyncBoxlite.rest(options) as runtime:
        yield runtime


def test_the_life_of_a_box(served: Listening, rest: Any) -> None:
    box = rest.create(boxlite.BoxOptions(image="host", cmd=FOREVER), name="life")
    assert rest.get("life").id == box.id
    box.start()
    assert served.daemon.get("life")["status"] == "running"
    assert box.metrics().memory_bytes > 0
    assert rest.metrics().boxes_created_total >= 1
    box.stop()
    assert served.daemon.get("life")["status"] == "stopped"
    rest.remove(box.id)
    assert rest.get("life") is None


def test_refusals_are_errors_by_class(rest: Any) -> None:
    box = rest.create(boxlite.BoxOptions(image="host"), name="refusing")
    with pytest.raises(boxlite.NotFoundError):
        rest.remove("nowhere")
    with pytest.raises(boxlite.AlreadyExistsError):
        rest.create(boxlite.BoxOptions(image="host"), name="refusing")
    with pytest.raises(boxlite.UnsupportedError, match='use image "host"'):
        rest.create(boxlite.BoxOptions(image="python:3.12"))
    for call in (lambda: box.tunnel(80), rest.images.list, rest.images.registries.list):
        with pytest.raises(boxlite.UnsupportedError):
            call()
    rest.remove("refusing")


def test_a_command_streams_both_ways(served: Listening, rest: Any) -> None:
    needs(served, "POST", "/v1/boxes/{ref}/exec")
    box = rest.create(boxlite.BoxOptions(image="host"), name="commands")
    execution = box.exec("sh", ["-c", "echo $WORD; echo err >&2; cat; exit 6"], env=[("WORD", "x")])
    stdin = execution.stdin()
    stdin.send_input(b"typed\n")
    stdin.close()
    assert "".join(execution.stdout()).split() == ["x", "typed"]
    assert "".join(execution.stderr()) == "err\n"
    assert execution.wait().exit_code == 6
    box.stop()
    rest.remove(box.id)
