"""The import contracts are complete: a new room or dependency that they do not name is a mistake."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

import boxlited

ROOT = Path(boxlited.__file__).parent
PROJECT = ROOT.parent / "pyproject.toml"

pytestmark = pytest.mark.skipif(not PROJECT.exists(), reason="installed without its source tree")

CODECS = {"errors", "failpoints", "supervisor", "shim"}  # rooms that the shim may enter, or parts of them
OF_CLIENT = {"client", "errors"}
CLIENT_NEEDS = {"wsproto", "h11", "anyio"}  # for attachments, and for trio and asyncio


def contracts() -> dict[str, dict[str, Any]]:
    content = tomllib.loads(PROJECT.read_text())
    return {contract["id"]: contract for contract in content["tool"]["importlinter"]["contracts"]}


def dependencies() -> set[str]:
    """The packages to import, of what the project depends on at run time."""
    lines = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    names = {"".join(c if c.isalnum() or c in "-_" else " " for c in line).split()[0] for line in lines}
    return {name.replace("-", "_") for name in names}


def rooms() -> set[str]:
    """Modules and packages directly below boxlited."""
    found = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    return found - {"__init__"}


@pytest.mark.parametrize(("contract", "own", "needed"), [("client", OF_CLIENT, CLIENT_NEEDS), ("shim", CODECS, set())])
def test_what_stands_alone_is_kept_from_every_other_dependency_and_room(
    contract: str, own: set[str], needed: set[str]
) -> None:
    forbidden = set(contracts()[contract]["forbidden_modules"])
    assert dependencies() - forbidden == needed
    assert {f"boxlited.{room}" for room in rooms() - own} - forbidden - {f"boxlited.{contract}"} == set()


def test_every_module_of_the_client_starts_light_or_is_a_door_to_the_protocols() -> None:
    light = set(contracts()["client-start"]["source_modules"])
    doors = set(contracts()["client-protocols"]["allowed_importers"])
    modules = {f"boxlited.client.{path.stem}" for path in (ROOT / "client").glob("*.py")}
    assert light | doors == modules - {"boxlited.client.__init__"}
    assert light & doors == set()


def test_the_engines_of_the_shim_and_every_codec_are_under_the_contract() -> None:
    sources = set(contracts()["shim"]["source_modules"])
    assert "boxlited.shim" in sources
    for source in sources:
        path = ROOT.parent / source.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), source


NAMES = (
    "shim.pid",
    "box.json",
    "exit.previous",
    "shim.stderr",
    "console.log",
    "control.sock",
    "boxlited.lock",
    "boxlited.db",
)


def test_no_module_but_the_layout_knows_the_names_in_a_home() -> None:
    for path in ROOT.rglob("*.py"):
        if path.name == "layout.py":
            continue
        tree = ast.parse(path.read_text())
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        parts = {part for word in words for part in word.split("/")}
        assert not parts & set(NAMES), path


def test_external_packages_are_looked_at() -> None:
    assert tomllib.loads(PROJECT.read_text())["tool"]["importlinter"]["include_external_packages"] is True
