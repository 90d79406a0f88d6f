"""Handlers that are about the daemon: config, principal, health, metrics, reconcile."""

from __future__ import annotations

from typing import Literal

from boxlited import __version__
from boxlited.api import query
from boxlited.api.call import Call
from boxlited.api.prometheus import exposition
from boxlited.api.replies import Reply, json_reply
from boxlited.api.schemas import Defaults, Health, Me, NoBody, ReconcileReport, ServerConfig
from boxlited.errors import Unauthenticated
from boxlited.model import BoxSpec

_READ = ["box:read", "me:read"]
_WRITE = ["box:write", "box:exec", "box:delete"]
# features of the contract that SDKs ask for before they use them
_ABSENT = dict.fromkeys(("clone_enabled", "export_enabled", "import_enabled", "snapshots_enabled"), False)
_PRESENT = dict.fromkeys(("streaming_enabled", "tty_enabled"), True)
_PRINCIPAL_TYPES: dict[str, Literal["user", "service_account"]] = {"unix_user": "user", "token": "service_account"}
_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


async def config(call: Call) -> Reply:
    host = call.services.host
    known = call.supervisor.capabilities()
    own_sandbox = known.get("default_engine", BoxSpec().engine) == BoxSpec().engine
    capabilities = {**_ABSENT, **_PRESENT, "linux_capabilities_enabled": own_sandbox, **known}
    defaults = Defaults(
        cpus=host.cpus,
        memory_mib=host.memory_mib,
        image="host",
        engine=capabilities.get("default_engine", BoxSpec().engine),
        stop_timeout_seconds=call.services.stop_seconds,
        auto_stop=0,
        auto_delete=0,
    )
    home = call.services.home if call.scope["state"].get("token") is None else None
    return json_reply(ServerConfig(__version__, defaults, capabilities, home))


async def me(call: Call) -> Reply:
    principal = call.principal
    if principal is None:
        raise Unauthenticated("this connection has no principal")
    scopes = _READ if principal.read_only else _READ + _WRITE
    return json_reply(Me(sub=principal.subject, principal_type=_PRINCIPAL_TYPES[principal.kind], scopes=scopes))


async def healthz(call: Call) -> Reply:
    """The process answers. Says nothing about recovery: that is readyz."""
    return json_reply(Health("ok"))


async def readyz(call: Call) -> Reply:
    """Reached only when ready: the gate answers 503 before."""
    return json_reply(Health("ready"))


async def metrics(call: Call) -> Reply:
    return json_reply(call.supervisor.metrics())


async def prometheus(call: Call) -> Reply:
    return Reply(200, exposition(call.supervisor.metrics()), _PROMETHEUS)


async def reconcile(call: Call) -> Reply:
    call.decode(NoBody)
    dry_run = query.boolean(call.query, "dry_run")
    return json_reply(ReconcileReport(dry_run, await call.supervisor.reconcile(dry_run=dry_run)))
