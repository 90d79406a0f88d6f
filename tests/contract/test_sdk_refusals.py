"""What the daemon does not do, an SDK user hears in one sentence: the right class, our words, no hang."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import boxlite
import pytest

from tests.contract.listening import TOKEN, Listening
from tests.contract.sdk import FOREVER, run, runtime

UUID = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "0" * 64


def refusal(served: Listening, kind: type[Exception], call: Callable[[Any, Any], Awaitable[Any]]) -> str:
    """The message of what `call(runtime, box)` raises, which is to be of this class exactly."""
    if not served.daemon.client.list():
        served.daemon.create(FOREVER, name="here")

    async def work() -> str:
        rest = runtime(served)
        with pytest.raises(kind) as caught:
            await call(rest, await rest.get("here"))
        assert type(caught.value) is kind
        return str(caught.value)

    message = run(work)
    assert "failed to parse" not in message
    assert "not a route" not in message
    return message


@pytest.mark.parametrize("image", ["python:3.12", "alpine:latest", "ghcr.io/some/image@" + DIGEST])
def test_an_image_is_refused_with_the_one_that_works(served: Listening, image: str) -> None:
    message = refusal(served, boxlite.UnsupportedError, lambda rest, _: rest.create(boxlite.BoxOptions(image=image)))
    assert image in message
    assert 'use image "host" or rootfs_path' in message


def test_a_create_without_an_image_is_told_the_same(served: Listening) -> None:
    """The SDK sends alpine:latest then."""
    message = refusal(served, boxlite.UnsupportedError, lambda rest, _: rest.create(boxlite.BoxOptions()))
    assert 'use image "host"' in message


def create(**options: Any) -> Callable[[Any, Any], Awaitable[Any]]:
    return lambda rest, _box: rest.create(boxlite.BoxOptions(image="host", **options))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"secrets": [boxlite.Secret("key", "hush-hush", hosts=["example.org"])]}, "secrets"),
        ({"disk_size_gb": 5}, "disk_size_gb"),
        ({"network": boxlite.NetworkSpec(mode="enabled", allow_net=["example.org"])}, "allow_net"),
        ({"network": boxlite.NetworkSpec(inbound=boxlite.InboundNetworkSpec(mode="enabled"))}, "network.inbound"),
    ],
)
def test_a_wish_that_cannot_be_honoured_is_named(served: Listening, options: dict[str, Any], word: str) -> None:
    message = refusal(served, boxlite.UnsupportedError, create(**options))
    assert word in message
    assert "hush-hush" not in message + served.daemon.log_text()


def test_a_name_that_is_taken_a_bad_name_and_an_unknown_box(served: Listening) -> None:
    refusal(served, boxlite.AlreadyExistsError, lambda rest, _: rest.create(boxlite.BoxOptions(image="host"), "here"))
    refusal(served, boxlite.InvalidArgumentError, lambda rest, _: rest.create(boxlite.BoxOptions(image="host"), "a b"))
    refusal(served, boxlite.NotFoundError, lambda rest, _: rest.remove("nowhere"))
    refusal(served, boxlite.NotFoundError, lambda rest, _: rest.remove("nowhere", force=True))


def test_a_box_that_runs_is_removed_by_force_only(served: Listening) -> None:
    served.daemon.run(FOREVER, name="runs")
    refusal(served, boxlite.InvalidStateError, lambda rest, _: rest.remove("runs"))
    served.daemon.client.remove("runs", force=True)


@pytest.mark.parametrize("token", [None, "", "another-token-altogether", TOKEN[:-1]])
def test_without_the_token_there_is_no_answer_but_why(served: Listening, token: str | None) -> None:
    async def work() -> None:
        with pytest.raises(boxlite.ConfigError, match="asks for a token"):
            await runtime(served, token).list_info()

    run(work)


OF_A_BOX: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "snapshot.create": lambda box: box.snapshot.create(name="one"),
    "snapshot.list": lambda box: box.snapshot.list(),
    "snapshot.get": lambda box: box.snapshot.get("one"),
    "snapshot.restore": lambda box: box.snapshot.restore("one"),
    "snapshot.remove": lambda box: box.snapshot.remove("one"),
    "clone_box": lambda box: box.clone_box(name="twin"),
    "network.tunnel": lambda box: box.network.tunnel(80),
    "network.revoke_tunnel": lambda box: box.network.revoke_tunnel(80),
    "network.update_inbound": lambda box: box.network.update_inbound(boxlite.InboundNetworkSpec(mode="enabled")),
    "network.update_outbound": lambda box: box.network.update_outbound(boxlite.OutboundNetworkSpec(mode="enabled")),
    "attach": lambda box: box.attach(),
}
OF_THE_RUNTIME: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "images.list": lambda rest: rest.images.list(),
    "images.usage": lambda rest: rest.images.usage(),
    "images.pull": lambda rest: rest.images.pull("python:3.12"),
    "images.get": lambda rest: rest.images.get("library/python"),
    "images.remove": lambda rest: rest.images.remove("python"),
    "images.create_alias": lambda rest: rest.images.create_alias("python", "py", DIGEST),
    "images.delete_alias": lambda rest: rest.images.delete_alias("python", "py"),
    "registries.list": lambda rest: rest.images.registries.list(),
    "registries.create": lambda rest: rest.images.registries.create(registry_host="x.io", username="u", password="p"),
    "registries.remove": lambda rest: rest.images.registries.remove(UUID),
    "volumes.create": lambda rest: rest.volumes.create("disk"),
    "volumes.list": lambda rest: rest.volumes.list(),
    "volumes.get": lambda rest: rest.volumes.get("disk"),
    "volumes.remove": lambda rest: rest.volumes.remove("disk"),
}


@pytest.mark.parametrize("name", OF_A_BOX)
def test_a_call_on_a_box_that_is_not_supported_says_so(served: Listening, name: str) -> None:
    assert refusal(served, boxlite.UnsupportedError, lambda _, box: OF_A_BOX[name](box))


@pytest.mark.parametrize("name", OF_THE_RUNTIME)
def test_a_call_on_the_runtime_that_is_not_supported_says_so(served: Listening, name: str) -> None:
    assert refusal(served, boxlite.UnsupportedError, lambda rest, _: OF_THE_RUNTIME[name](rest))


def test_export_and_import_are_not_supported_and_leave_nothing(served: Listening, tmp_path: Path) -> None:
    refusal(served, boxlite.UnsupportedError, lambda _, box: box.export(dest=str(tmp_path / "box.boxlite")))
    assert list(tmp_path.iterdir()) == []
    archive = tmp_path / "some.boxlite"
    archive.write_bytes(b"x" * 100)
    refusal(served, boxlite.UnsupportedError, lambda rest, _: rest.import_box(str(archive), name="imported"))
    assert [box["name"] for box in served.daemon.client.list()] == ["here"]


def test_a_call_on_a_box_that_is_gone_is_not_found(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        box = await rest.create(boxlite.BoxOptions(image="host"), name="gone")
        await rest.remove(box.id)
        for call in (box.start, box.stop, box.metrics, lambda: box.network.tunnel(80), lambda: box.exec("true")):
            with pytest.raises(boxlite.NotFoundError, match=box.id):
                await call()

    run(work)
