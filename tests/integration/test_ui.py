"""The page at /ui in a real browser, against the real daemon and real boxes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from boxlited.api.listeners import read_only_path
from boxlited.client.client import Client
from tests.integration.browser import CHROMIUM, DRIVER, MISSING, Page, Relay, chromium
from tests.integration.daemon_harness import Daemon, kill_pid

TOKEN = "0123456789abcdef0123"
MANY = 1000
MARKUP = "<img src=x onerror=window.owned=1><script>window.owned=1</script>"
# Echoes a line whenever it gets SIGUSR1, and never ends by itself.
TALKER = ["sh", "-c", "trap 'echo told' USR1; echo up; while :; do sleep 0.02; done"]

needs_browser = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)


class Served(Daemon):
    """A daemon that also listens on a port of loopback, the same one after a restart."""

    def __init__(self) -> None:
        super().__init__()
        token_file = self.root / "token"
        token_file.write_text(TOKEN)
        token_file.chmod(0o600)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.arguments = ["--listen", self.address, "--token-file", str(token_file)]

    @property
    def url(self) -> str:
        return f"http://{self.address}/ui"

    def tell(self, name: str) -> None:
        self.client.kill(name, signal.SIGUSR1)


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
    """The page, connected. Logged in as the tab is: only the first test of a run is asked."""
    page = Page(driver, daemon.url)
    page.load()
    page.until(lambda: page.is_shown("#ask") or page.is_shown("#app"), "the page is there")
    if page.is_shown("#ask"):
        page.login(TOKEN)
    page.wait_state("live")
    yield page
    page.as_usual()
    driver.get("about:blank")


# ---- how it is served


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


# ---- the table lives


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
def test_a_failed_box_tells_its_story(page: Page, daemon: Served) -> None:
    restart = {"policy": "on-failure", "max_retries": 1, "backoff": {"initial_seconds": 0.05, "max_seconds": 0.05}}
    daemon.run(["sh", "-c", "echo last words; kill -SEGV $$"], name="faulty", restart=restart)
    page.wait_row("faulty", status="failed", restarts="1", exit="SIGSEGV", why="SIGSEGV")
    page.open("faulty", "crash")
    text = page.wait_text("#page-crash", "last words")
    assert "a bug in native code" in text
    assert text.lower().index("the last run") < text.lower().index("the life before")
    page.click("#tab-timeline")
    page.wait_text("#timeline", "Gave up restarting")
    kinds = page.js("return [...document.querySelectorAll('#timeline li')].map((item) => item.dataset.kind)")
    assert kinds[0] == "created"
    assert kinds.count("started") == kinds.count("failed") == 2
    assert kinds[-1] == "gave_up"
    daemon.client.reset_failed("faulty")
    page.wait_text("#timeline", "Failure forgotten")
    page.wait_text("#panel-status", "stopped")


@needs_browser
def test_logs_are_followed_and_a_second_run_is_too(page: Page, daemon: Served) -> None:
    daemon.run(TALKER, name="talker")
    page.open("talker", "logs")
    page.wait_text("#log", "up")
    assert "told" not in page.text("#log")
    daemon.tell("talker")
    page.wait_text("#log", "told")
    daemon.client.stop("talker", 0.1)
    page.wait_text("#log-state", "the log ends here")
    daemon.client.start("talker")
    page.until(lambda: page.text("#log").split().count("up") == 2, "the second run is followed")
    daemon.tell("talker")
    page.until(lambda: page.text("#log").split().count("told") == 2, "and still")


@needs_browser
def test_a_flood_of_output_stays_bounded_and_ends_with_its_last_line(page: Page, daemon: Served) -> None:
    more = "seq 1 1500; n=$((n + 1)); echo more-$n"
    flood = f"trap '{more}' USR1; seq 1 60000; head -c 300000 /dev/zero | tr '\\0' x; echo; echo the-end"
    daemon.run(["sh", "-c", f"{flood}; while :; do sleep 0.02; done"], name="flood")
    page.open("flood", "logs")
    page.wait_text("#log", "the-end")
    for number in (1, 2):
        daemon.tell("flood")
        page.wait_text("#log", f"more-{number}")
    count, longest = page.js(
        "const lines = [...document.querySelectorAll('#log div')].map((line) => line.textContent.length);"
        "return [lines.length, Math.max(...lines)]"
    )
    assert count == 2000
    assert longest < 5000


@needs_browser
def test_actions_ask_first_where_they_destroy_and_show_what_the_daemon_says(page: Page, daemon: Served) -> None:
    box = daemon.run(name="web")
    page.open("web", "facts")
    page.click("#do-stop")
    assert page.wait_text("#confirm-title", "Stop web?")
    page.click("#confirm-no")
    assert daemon.get("web")["pid"] == box["pid"]
    page.click("#do-stop")
    page.click("#confirm-yes")
    page.wait_row("web", status="stopped", why="stopped by the user")
    page.click("#do-start")
    page.wait_row("web", status="running", pid=str(daemon.wait_status("web", "running")["pid"]))
    started = daemon.get("web")["pid"]
    page.click("#do-restart")
    page.click("#confirm-yes")
    page.until(lambda: page.table()["web"]["pid"] not in ("", str(started)), "another pid")
    page.until(lambda: page.js("return !document.getElementById('do-kill').disabled"), "the restart is done")
    page.click("#do-kill")
    page.click("#confirm-yes")
    page.until(lambda: page.table()["web"]["pid"] == "", "it was killed")
    daemon.create(["/no/such/program"], name="typo")
    page.open("typo", "facts")
    page.click("#do-start")
    page.wait_text("#panel-error", "/no/such/program")
    page.click("#do-remove")
    page.click("#confirm-yes")
    page.until(lambda: not page.is_shown("#panel"), "the detail of a removed box is closed")
    assert [one["name"] for one in daemon.client.list()] == ["web"]


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


# ---- for everyone


@needs_browser
def test_all_of_it_by_keyboard(page: Page, daemon: Served) -> None:
    for name in ("alpha", "beta", "gamma"):
        daemon.run(name=name)
        page.wait_row(name, status="running")
    page.press(Keys.TAB)
    assert page.focus() == "skip"
    assert page.js("return document.activeElement.getBoundingClientRect().top >= 0")
    page.press(Keys.ENTER)
    assert page.focus() == "row alpha"
    page.press("j", "j")
    assert page.focus() == "row gamma"
    page.press("k", Keys.ARROW_UP, Keys.ARROW_DOWN)
    assert page.focus() == "row beta"
    outline = (
        "const at = document.activeElement; return [at.matches(':focus-visible'), getComputedStyle(at).outlineStyle]"
    )
    assert page.js(outline) == [True, "solid"]
    page.press(Keys.ENTER)
    page.wait_text("#panel-name", "beta")
    assert page.focus() == "panel-name"
    tab_to(page, "do-kill")
    page.press(Keys.ENTER)
    page.wait_text("#confirm-title", "Kill beta?")
    assert page.focus() == "confirm-no"  # what destroys is never one Enter away
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.is_shown("#confirm"), "the question is closed")
    assert page.is_shown("#panel")
    assert page.focus() == "do-kill"
    page.press(Keys.ENTER, Keys.TAB, Keys.ENTER)
    page.wait_row("beta", pid="", exit="SIGKILL")
    tab_to(page, "tab-logs")
    page.press(Keys.ARROW_RIGHT)
    assert page.focus() == "tab-timeline"
    page.wait_text("#timeline", "Created")
    page.press(Keys.ESCAPE)
    assert not page.is_shown("#panel")
    assert page.focus() == "row beta"
    page.press("/", *"alph")
    page.until(lambda: list(page.table()) == ["alpha"], "only alpha is left")
    page.press(Keys.ENTER)
    page.wait_text("#panel-name", "alpha")
    page.press(Keys.ESCAPE, "/", Keys.ESCAPE)
    page.until(lambda: len(page.table()) == 3, "the filter is gone")


def tab_to(page: Page, target: str) -> None:
    for _ in range(40):
        if page.focus() == target:
            return
        page.press(Keys.TAB)
    raise AssertionError(f"Tab does not lead to {target}")


@needs_browser
def test_roles_and_names_say_what_things_are(page: Page, daemon: Served) -> None:
    daemon.run(name="web")
    page.open("web", "facts")
    roles = {
        "#boxes": "grid", "#rows tr": "row", "#rows td": "gridcell", "#columns th": "columnheader",
        "#tabs": "tablist", "#tab-facts": "tab", "#page-facts": "tabpanel", "#live": "status", "#app": "main",
    }  # fmt: skip
    for css, role in roles.items():
        assert page.driver.find_element("css selector", css).aria_role == role, css
    named = "button, input, section, [role=grid], [role=group], [role=tablist], [role=tabpanel]"
    for element in page.driver.find_elements("css selector", named):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")
    assert page.find("#tab-facts").get_attribute("aria-selected") == "true"
    assert page.js("return document.querySelector('[aria-sort]').textContent") == "Name"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(page: Page, daemon: Served, scheme: str) -> None:
    daemon.run(["sh", "-c", "echo words; kill -SEGV $$"], name="faulty")
    daemon.run(name="web")
    daemon.create(name="idle")
    daemon.run(["true"], name="done")
    page.emulate(prefers_color_scheme=scheme)
    page.wait_row("faulty", status="failed")
    page.wait_row("done", status="stopped")
    script = (Path(__file__).parent / "contrast.js").read_text()
    lightness = (
        "const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number); return r + g + b"
    )
    assert (page.js(lightness) > 600) is (scheme == "light")
    for tab, css in (("logs", "#log"), ("timeline", "#timeline"), ("crash", "#page-crash"), ("facts", "#facts")):
        page.open("faulty", tab)
        page.until(lambda css=css: page.text(css).strip(), f"{css} has text")
        seen, poor = page.js(script)
        assert seen > 30
        assert poor == []
    page.open("web", "logs")
    page.click("#do-kill")
    assert page.js(script)[1] == []
    page.click("#confirm-no")


@needs_browser
def test_a_narrow_screen_shows_the_list_or_the_detail_and_nothing_is_cut_off(page: Page, daemon: Served) -> None:
    daemon.run(["sh", "-c", "kill -SEGV $$"], name="a-box-with-quite-a-long-name-as-machines-make-them")
    daemon.run(name="web")
    page.resize(360, 640)
    page.wait_row("web")
    overflow = """const parts = [document.documentElement, ...document.querySelectorAll('.scroll, .page, .log')];
    return Math.max(...parts.filter((one) => one.checkVisibility()).map((one) => one.scrollWidth - one.clientWidth))"""
    outside = """const parts = [...document.querySelectorAll('button, input')].filter((one) => one.checkVisibility());
    return parts.filter((one) => {
      const box = one.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth || box.height < 24;
    }).map((one) => one.id || one.textContent)"""
    assert (page.js(overflow), page.js(outside)) == (0, [])
    page.open("a-box-with-quite-a-long-name-as-machines-make-them", "crash")
    page.wait_text("#page-crash", "SIGSEGV")
    assert not page.is_shown("#list")
    assert (page.js(overflow), page.js(outside)) == (0, [])
    page.click("#panel-close")
    assert page.is_shown("#list")
    assert not page.is_shown("#panel")


@needs_browser
def test_nothing_moves_for_who_wants_no_motion(page: Page) -> None:
    moving = """document.getElementById('connection').dataset.state = 'reconnecting';
    return getComputedStyle(document.querySelector('#connection i')).animationName"""
    assert page.js(moving) == "breathe"
    page.emulate(prefers_reduced_motion="reduce")
    assert page.js(moving) == "none"


@needs_browser
def test_the_address_leads_back_to_a_box(page: Page, daemon: Served) -> None:
    box_id = daemon.run(name="web")["box_id"]
    page.open("web", "facts")
    assert page.js("return location.hash") == f"#/box/{box_id}/facts"
    page.driver.refresh()
    page.wait_text("#facts", box_id)
    page.js("history.back()")
    page.until(lambda: not page.is_shown("#panel"), "Back closes the detail")


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
