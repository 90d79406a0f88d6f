"""The table of boxes at /ui lives: it follows what happens, however many boxes there are."""

from __future__ import annotations

import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from boxlited.client.client import Client
from tests.integration.daemon_harness import Daemon, kill_pid
from tests.integration.ui.browser import Page, Relay
from tests.integration.ui.served import TALKER, Served, needs_browser

MANY = 1000


@needs_browser
def test_the_table_shows_each_box_and_a_box_that_is_killed_says_why_without_a_reload(
    page: Page, daemon: Served
) -> None:
    box = daemon.run(name="web")
    daemon.create(name="idle")
    row = page.wait_row("web", status="running", pid=str(box["pid"]), engine="sandbox")
    assert re.fullmatch(r"\d+s", row["uptime"])
    assert page.wait_row("idle", status="configured")["pid"] == ""
    kill_pid(box["pid"])
    row = page.wait_row("web", status="failed", why="SIGKILL")
    assert row["pid"] == ""
    page.wait_text("#live", "web is failed")
    assert page.js("return document.title") == "1 failed · boxlited"
    daemon.client.remove("idle")
    page.until(lambda: "idle" not in page.table(), "the removed box is gone")
    assert page.is_same_document()


@needs_browser
def test_a_daemon_that_is_killed_shows_and_its_return_needs_no_reload(page: Page, daemon: Served) -> None:
    daemon.run(TALKER, name="talker")
    doomed = daemon.run(name="doomed")
    page.open("doomed", "timeline")
    page.wait_text("#timeline", "Started")
    daemon.kill9()
    page.wait_state("reconnecting")
    assert "reconnecting" in page.text("#connection")
    assert page.table()["talker"]["status"] == "running"  # what was known stays in sight
    kill_pid(doomed["pid"])
    daemon.start(arguments=daemon.arguments)
    page.wait_state("live")
    page.wait_row("doomed", status="stopped", why="without an exit file")
    page.wait_text("#timeline", "Stopped")  # happened before the page was back
    page.open("talker", "logs")
    page.wait_text("#log", "up")
    daemon.kill9()
    page.wait_text("#log-state", "Trying again")
    daemon.start(arguments=daemon.arguments)
    daemon.tell("talker")
    page.wait_text("#log", "told")
    daemon.create(name="newcomer")
    page.wait_row("newcomer")
    assert page.is_same_document()


@needs_browser
def test_a_thousand_boxes_are_all_there_sorted_filtered_and_walked(
    driver: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.access("/dev/shm", os.W_OK):
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")  # a thousand syncs of a disk are not what is tested
    with Daemon() as daemon:
        daemon.start()

        def create(numbers: range) -> None:
            client = Client(daemon.socket)
            for number in numbers:
                client.create({"name": f"box-{number}", "image": "host", "cmd": ["true"]})
            client.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(create, [range(first, MANY, 8) for first in range(8)]))
        relay = Relay(daemon.socket)
        try:
            page = Page(driver, relay.url)
            page.load()
            page.wait_text("#count", f"{MANY:,} boxes")
            assert list(page.table()) == [f"box-{number}" for number in range(MANY)]
            page.press("/", *"999")
            page.wait_text("#count", f"1 of {MANY:,} boxes")
            page.press(Keys.ENTER)
            page.wait_text("#panel-name", "box-999")
            page.press(Keys.ESCAPE, "/", Keys.ESCAPE)
            page.wait_text("#count", f"{MANY:,} boxes")
            page.press(Keys.ARROW_DOWN, Keys.END)
            assert page.focus() == f"row box-{MANY - 1}"
            daemon.client.start("box-500")
            page.wait_row("box-500", status="stopped", exit="0")
            driver.get("about:blank")
        finally:
            relay.close()
