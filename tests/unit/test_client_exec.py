"""Promises of both clients about commands in a box, as far as no command has to run."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import wsproto
from hypothesis import given
from hypothesis import strategies as st
from wsproto import events

from boxlited import errors
from boxlited.client import AsyncClient, Client
from boxlited.client.attach_protocol import AttachProtocol
from tests.unit import client_kinds, fake_daemon
from tests.unit.client_kinds import Ask, with_a_box
from tests.unit.fake_daemon import FakeDaemon, Upgrade

fake = with_a_box(fake_daemon.serving)
client = client_kinds.client
ask = client_kinds.ask


@pytest.mark.parametrize("argv", [[], "echo hello"])
def test_what_is_no_command_is_refused_here(ask: Ask, fake: FakeDaemon, argv: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="is no command"):
        ask("run_command", "web", argv)
    assert fake.requests == []


@pytest.mark.parametrize("execution_id", ["", ".", ".."])
def test_an_id_that_would_name_another_route_is_refused_here(client: Client, fake: FakeDaemon, execution_id) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.kill_execution("web", execution_id)
    assert fake.requests == []


def _ending(fake: FakeDaemon, *messages: dict[str, Any]) -> None:
    """Attaching to e1 gives these text messages."""

    def serve(sock: Any, headers: Any, path: str) -> None:
        ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        ws.initiate_upgrade_connection(headers, path)
        sock.sendall(ws.send(events.AcceptConnection()))
        for message in messages:
            sock.sendall(ws.send(events.TextMessage(data=json.dumps(message))))
        sock.sendall(ws.send(events.CloseConnection(code=1000)))

    fake.replies["GET", "/v1/boxes/web/executions/e1/attach"] = (101, Upgrade(serve))


def test_why_a_command_was_ended_is_told(client: Client, fake: FakeDaemon) -> None:
    _ending(fake, {"type": "exit", "exit_code": 137, "error_message": "its time was over"})
    with client.attach("web", "e1") as attachment:
        assert list(attachment) == []
    assert (attachment.exit_code, attachment.error_message) == (137, "its time was over")


def test_output_that_is_missing_is_not_passed_off_as_all_of_it(ask: Ask, fake: FakeDaemon) -> None:
    fake.replies["POST", "/v1/boxes/web/exec"] = (201, {"execution_id": "e1"})
    _ending(fake, {"type": "error", "message": "7 bytes of output were lost"}, {"type": "exit", "exit_code": 0})
    with pytest.raises(errors.Internal, match="not complete: 7 bytes of output were lost"):
        ask("run_command", "web", ["true"])


def test_strange_messages_end_nothing(client: Client, fake: FakeDaemon) -> None:
    _ending(fake, {}, {"type": "new"}, {"type": "exit", "exit_code": "x"}, {"type": "exit", "exit_code": 3})
    with client.attach("web", "e1") as attachment:
        assert list(attachment) == []
    assert attachment.exit_code == 3


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_no_bytes_of_the_daemon_make_an_attachment_fail_otherwise_than_by_an_error_of_ours(noise: list[bytes]) -> None:
    protocol = AttachProtocol("GET /x", "host", "/x", {})
    try:
        for piece in noise:
            protocol.receive(piece)
    except errors.BoxlitedError:
        pass


def _public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member).replace(return_annotation=None)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    sync, asynchronous = _public(Client), _public(AsyncClient)
    assert sync.keys() == asynchronous.keys()
    for name in sync.keys() - {"put_files"}:  # the content may be asynchronous there
        assert str(sync[name]) == str(asynchronous[name]), name
    assert list(sync["put_files"].parameters) == list(asynchronous["put_files"].parameters)
