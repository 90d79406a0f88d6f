"""The page at /ui by keyboard, by its roles and names, with contrast, on a narrow screen, and without motion."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.integration.ui.browser import Page
from tests.integration.ui.served import Served, needs_browser


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
