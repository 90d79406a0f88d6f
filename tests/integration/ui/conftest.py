"""One daemon and one browser for each file; each test finds the page connected, and no box."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.integration.ui.browser import Page, chromium
from tests.integration.ui.served import TOKEN, Served


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served() as one:
        one.start(arguments=one.arguments)
        yield one


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def daemon(shared: Served) -> Iterator[Served]:
    yield shared
    for box in shared.client.list():
        shared.client.remove(box["box_id"], force=True)


@pytest.fixture
def page(daemon: Served, driver: webdriver.Chrome) -> Iterator[Page]:
    """The page, connected, as it is after a load. Logged in as the tab is: only the first test of a file is asked."""
    page = Page(driver, daemon.url)
    page.load()
    page.until(lambda: page.is_shown("#ask") or page.is_shown("#app"), "the page is there")
    if page.is_shown("#ask"):
        page.login(TOKEN)
        page.wait_state("live")
        page.load()  # the keyboard would begin where the question was
    page.wait_state("live")
    yield page
    page.as_usual()
    driver.get("about:blank")
