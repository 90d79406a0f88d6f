"""One box at /ui: its crash, its log, its timeline, and what can be done with it."""

from __future__ import annotations

from tests.integration.ui.browser import Page
from tests.integration.ui.served import TALKER, Served, needs_browser


@needs_browser
def test_a_failed_box_tells_its_story(page: Page, daemon: Served) -> None:
    restart = {"policy": "on-failure", "max_retries": 1, "backoff": {"initial_seconds": 0.05, "max_seconds": 0.05}}
    daemon.run(["sh", "-c", "echo last words; kill -SEGV $$"], name="faulty", restart=restart)
    page.wait_row("faulty", status="failed", restarts="1", exit="SIGSEGV", why="SIGSEGV")
    page.open("faulty", "crash")
    page.until(lambda: "the life before" in page.text("#page-crash").lower(), "both ends are told")
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
def test_the_address_leads_back_to_a_box(page: Page, daemon: Served) -> None:
    box_id = daemon.run(name="web")["box_id"]
    page.open("web", "facts")
    assert page.js("return location.hash") == f"#/box/{box_id}/facts"
    page.driver.refresh()
    page.wait_text("#facts", box_id)
    page.js("history.back()")
    page.until(lambda: not page.is_shown("#panel"), "Back closes the detail")
