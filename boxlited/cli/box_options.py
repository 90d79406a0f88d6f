"""What one may say about a box on a command line, once, for `run` and `create`.

`BoxOptions` is the list of options and turns itself into a request; `with_box_options` gives a
command these options beside its own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from boxlited.cli import parse
from boxlited.errors import InvalidArgument

Words = list[str] | None
Text = str | None


@dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """Absent (None, False) means: left to the daemon's defaults."""

    command: Annotated[Words, typer.Argument(metavar="CMD [ARGS]", help="What runs in the box.")] = None
    name: Annotated[Text, typer.Option(help="Its name; one is made up otherwise.")] = None
    rm: Annotated[bool, typer.Option("--rm", help="Remove the box when it ends.")] = False
    env: Annotated[Words, typer.Option("--env", "-e", metavar="K[=V]", help="Environment variable.")] = None
    volume: Annotated[
        Words, typer.Option("--volume", "-v", metavar="HOST:GUEST[:ro]", help="A directory to share.")
    ] = None
    cpus: Annotated[float | None, typer.Option(metavar="N", help="Processors, such as 1.5.")] = None
    memory: Annotated[Text, typer.Option("--memory", "-m", metavar="SIZE", help="Memory, such as 512m.")] = None
    pids: Annotated[int | None, typer.Option(metavar="N", help="Most processes and threads.")] = None
    restart: Annotated[
        Text, typer.Option(metavar="POLICY", help="no, on-failure[:N] or always: when to start it again.")
    ] = None
    engine: Annotated[Text, typer.Option(metavar="NAME", help="sandbox, process, ...")] = None
    network: Annotated[bool, typer.Option("--network", help="Let it use the host's network.")] = False
    image: Annotated[Text, typer.Option(metavar="NAME", help="Root file system by name, such as host.")] = None
    rootfs: Annotated[Text, typer.Option(metavar="DIR", help="Root file system: this directory.")] = None
    label: Annotated[Words, typer.Option("--label", "-l", metavar="K=V", help="A label.")] = None
    workdir: Annotated[Text, typer.Option("--workdir", "-w", metavar="DIR", help="Where it starts.")] = None
    user: Annotated[Text, typer.Option("--user", "-u", metavar="USER", help="Who it runs as.")] = None

    def body(self) -> dict[str, Any]:
        """The body of `POST /v1/boxes`. Raises InvalidArgument, naming the option."""
        image = None if self.image is None else parse.given("--image", self.image)
        rootfs = None if self.rootfs is None else os.path.abspath(parse.given("--rootfs", self.rootfs))
        if image and rootfs:
            raise InvalidArgument("--image and --rootfs exclude each other")
        spec: dict[str, Any] = {
            "name": self.name,
            "cmd": self.command,
            "auto_remove": self.rm,
            "env": parse.environment(self.env or (), os.environ),
            "volumes": [parse.volume(text) for text in self.volume or ()],
            "cpus": None if self.cpus is None else parse.processors(self.cpus),
            "memory_mib": None if self.memory is None else parse.memory_mib(self.memory),
            "pids": None if self.pids is None else parse.pids(self.pids),
            "restart": None if self.restart is None else parse.restart(self.restart),
            "engine": self.engine,
            "network": {"outbound": {"mode": "enabled"}} if self.network else None,
            "image": image or (None if rootfs else "host"),
            "rootfs_path": rootfs,
            "labels": parse.labels(self.label or ()),
            "working_dir": self.workdir,
            "user": self.user,
        }
        return {key: value for key, value in spec.items() if value not in (None, [], {}) and value is not False}


def with_box_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command(context, options, **own)` as typer wants it: every option a parameter of its own."""
    hints = get_type_hints(BoxOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(BoxOptions)
    ]
    own = list(inspect.signature(command, eval_str=True).parameters.values())

    def wrapper(context: typer.Context, **given: Any) -> None:
        options = BoxOptions(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(context, options, **given)

    parameters = [own[0], *shared, *own[2:]]
    wrapper.__name__ = command.__name__
    wrapper.__doc__ = command.__doc__
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper
