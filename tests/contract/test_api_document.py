"""docs/api.md says what the route table says, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boxlited.api.middleware import OPEN_PATHS
from boxlited.api.routes import ROUTES
from boxlited.api.table import RouteDef
from boxlited.errors import BY_CODE

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
ROWS = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| `")]
OF_ROUTES = {cells[0].strip().strip("`"): cells for cells in ROWS if len(cells) == 4}
OF_CODES = {cells[0].strip().strip("`"): int(cells[1]) for cells in ROWS if len(cells) == 3}


def test_every_route_is_there_and_no_other() -> None:
    assert set(OF_ROUTES) == {f"{route.method} {route.path}" for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_key_and_good_end_of_a_route_is_in_its_row(route: RouteDef) -> None:
    cells = OF_ROUTES[f"{route.method} {route.path}"]
    named = set(re.findall(r"`([\w-]+)`", cells[2]))
    assert {item.name for item in route.query + route.headers} <= named
    if route.status < 400:
        assert cells[3].strip().startswith(str(route.status))


def test_every_error_code_has_its_status() -> None:
    assert {code: error.status for code, error in BY_CODE.items()} == OF_CODES


def test_the_routes_that_need_no_token_are_the_public_ones() -> None:
    assert {route.path for route in ROUTES if route.public} == OPEN_PATHS
