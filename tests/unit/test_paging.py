"""Pages of boxes: complete and without repeat, whatever comes and goes between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.errors import InvalidArgument
from boxlited.model import Box, BoxID, BoxSpec
from boxlited.supervisor.paging import page_of


def box(created_at: float) -> Box:
    box_id = BoxID.mint()
    return Box(box_id=box_id, name=f"box-{box_id}", spec=BoxSpec(image="host"), created_at=created_at, updated_at=0.0)


def read_all(rows: list[Box], size: int) -> list[Box]:
    found, token = page_of(list(rows), size, None)
    while token is not None:
        page, token = page_of(list(rows), size, token)
        assert page
        found += page
    return found


@given(st.lists(st.sampled_from([1.0, 2.5, 1e9])), st.integers(1, 7))
def test_pages_add_up_to_all_boxes_even_of_the_same_moment(moments: list[float], size: int) -> None:
    rows = [box(moment) for moment in moments]
    assert read_all(rows, size) == sorted(rows, key=lambda one: (one.created_at, one.box_id))


def test_a_box_that_goes_or_comes_between_two_pages_shifts_nothing() -> None:
    rows = [box(float(number)) for number in range(6)]
    page, token = page_of(list(rows), 2, None)
    rest, _ = page_of([box(0.5), *rows[2:]], 9, token)
    assert page + rest == rows


@pytest.mark.parametrize("token", ["", "x", "e30=", "W10=", "WzEsMV0=", "é", "\udcff", "[" * 9999])
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="pageToken"):
        page_of([box(1.0)], 1, token)
