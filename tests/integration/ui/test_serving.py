"""How the page at /ui is served, who is asked for a token, and what stays text."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from boxlited.api.listeners import read_only_path
from tests.integration.ui.browser import Page, Relay
from tests.integration.ui.served import TALKER, TOKEN, Served, needs_browser

MARKUP = "<img src=x onerror=window.owned=1><script>window.owned=1</script>"


def test_the_page_is_open_and_bounded_and_its_data_is_not(daemon: Served) -> None:
    with (
        httpx.Client(trust_env=False) as tcp,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket))) as unix,
    ):
        replies = [tcp.get(daemon.url), unix.get("http://localhost/ui")]
        refused = [tcp.get(f"http://{daemon.address}/v1/{path}") for path in ("me", "boxes", "events", "metrics")]
        refused.append(tcp.get(f"{daemon.url}/x"))
    assert [reply.status_code for reply in refused] == [401] * 5
    for reply in replies:
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
        for kind in ("script", "style"):
            (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", reply.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", reply.text)


@needs_browser
def test_a_token_is_asked_for_until_it_is_right_and_kept_in_the_tab_only(page: Page, daemon: Served) -> None:
    daemon.create(name="web")
    page.js("sessionStorage.clear()")
    page.load()
    page.find("#ask-token")
    assert not page.is_shown("#app")
    page.login("wrong-token-of-some-length")
    page.wait_text("#ask-error", "not accepted")
    page.login("ünfit")
    page.wait_text("#ask-error", "ASCII")
    page.login(TOKEN)
    page.wait_row("web", status="configured")
    assert page.js("return [Object.values(sessionStorage), localStorage.length, document.cookie]") == [[TOKEN], 0, ""]
    page.load()
    page.wait_row("web")
    page.click("#forget")
    page.find("#ask-token")
    assert page.js("return sessionStorage.length") == 0


@needs_browser
def test_over_the_unix_sockets_no_token_is_asked_and_the_read_only_one_shows_no_actions(
    daemon: Served, driver: webdriver.Chrome
) -> None:
    daemon.run(name="web")
    for path, may_write in ((daemon.socket, True), (read_only_path(daemon.socket), False)):
        relay = Relay(path)
        try:
            page = Page(driver, relay.url)
            page.load()
            page.wait_state("live")
            page.open("web", "facts")
            page.wait_text("#facts", daemon.get("web")["box_id"])
            assert page.is_shown("#do-kill") is may_write
            assert page.is_shown("#read-only") is not may_write
            driver.get("about:blank")
        finally:
            relay.close()


@needs_browser
def test_more_tabs_than_a_browser_has_connections_all_live(page: Page, daemon: Served) -> None:
    daemon.run(TALKER, name="talker")
    driver = page.driver
    first = driver.current_window_handle
    try:
        for _ in range(4):  # each would hold two
            driver.switch_to.new_window("tab")
            page.load()
            page.login(TOKEN)
            page.wait_state("live")
            page.open("talker", "logs")
            page.wait_text("#log", "up")
        daemon.create(name="newcomer")
        page.wait_row("newcomer")
        driver.switch_to.window(first)
        page.wait_row("newcomer")
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)


# ---- what boxes say is text


@needs_browser
def test_markup_and_escapes_from_a_box_are_only_shown(page: Page, daemon: Served) -> None:
    escapes = "\\033[31mred\\033[0m \\033]0;title\\007\\rover\\342\\200\\256txet\\n"
    daemon.run(
        ["sh", "-c", f"printf '%s\\n' '{MARKUP}'; printf '{escapes}'; kill -ABRT $$"],
        name="hostile",
        labels={"note": MARKUP},
    )
    daemon.create([MARKUP], name="markup-command")
    page.wait_row("hostile", status="failed")
    page.open("hostile", "logs")
    shown = page.wait_text("#log", "txet")
    assert MARKUP in shown
    assert "over�txet" in shown
    assert "\x1b" not in shown
    for tab, css in (("crash", "#page-crash"), ("facts", "#facts"), ("timeline", "#timeline")):
        page.click(f"#tab-{tab}")
        page.wait_text(css, "SIGABRT" if tab == "timeline" else MARKUP)
    page.open("markup-command", "timeline")
    page.click("#do-start")
    page.wait_text("#panel-error", "<img src=x")
    page.wait_row("markup-command", why="<img src=x")
    page.wait_text("#timeline", "<img src=x")
    assert page.js("return [window.owned, document.querySelectorAll('img, main script').length]") == [None, 0]


@needs_browser
def test_the_policy_holds_should_markup_get_in_all_the_same(page: Page) -> None:
    for sink in ("innerHTML = arguments[0]", "setAttribute('onclick', 'window.owned = 1')"):
        attempt = f"try {{ document.createElement('p').{sink}; return 'taken' }} catch {{ return 'refused' }}"
        assert page.js(attempt, MARKUP) == "refused"
    style = """const style = document.createElement('style'); style.textContent = 'h1 { color: red }';
    document.head.append(style); return style.sheet"""
    assert page.js(style) is None


@needs_browser
def test_the_page_breaks_no_rule_of_its_own(page: Page, daemon: Served) -> None:
    page.driver.get_log("browser")
    page.load()
    daemon.run(name="web")
    page.open("web", "logs")
    page.click("#tab-facts")
    page.press(Keys.ESCAPE)
    complaints = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert complaints == []
