"""Every example of docs/client.md is true, in its order, against a real daemon."""

from __future__ import annotations

import doctest
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import boxlited
from boxlited.client import Client
from tests.integration.daemon_harness import Daemon

DOCUMENT = Path(boxlited.__file__).parent.parent / "docs" / "client.md"
EXAMPLES = 50

pytestmark = pytest.mark.skipif(not DOCUMENT.exists(), reason="installed without its source tree")


class Section(NamedTuple):
    title: str
    text: str
    line: int


def sections() -> list[Section]:
    if not DOCUMENT.exists():
        return []
    text = DOCUMENT.read_text()
    starts = [match.start() for match in re.finditer("^## ", text, re.MULTILINE)]
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return [
        Section(part.splitlines()[0].removeprefix("## "), part.replace("```", ""), text[:start].count("\n"))
        for start, part in zip(starts, parts, strict=True)
    ]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon() as one:
        yield one.start()


@pytest.fixture(scope="module")
def names(shared: Daemon) -> Iterator[dict[str, Any]]:
    """What the examples have defined so far."""
    found: dict[str, Any] = {}
    yield found
    for value in found.values():
        if isinstance(value, Client):
            value.close()
    if "here" in found:
        shutil.rmtree(found["here"], ignore_errors=True)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.title)
def test_the_examples_are_true(
    shared: Daemon, names: dict[str, Any], section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOXLITED_SOCKET", str(shared.socket))
    examples = doctest.DocTestParser().get_doctest(section.text, names, section.title, str(DOCUMENT), section.line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(examples, out=said.append, clear_globs=False)
    names.update(examples.globs)
    assert runner.failures == 0, "".join(said)


def test_the_document_has_its_examples() -> None:
    parser = doctest.DocTestParser()
    assert sum(len(parser.get_examples(section.text)) for section in sections()) >= EXAMPLES
