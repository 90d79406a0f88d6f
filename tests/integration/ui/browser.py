"""A real Chromium without a screen, and the page at /ui in it. What a test sees is what is displayed.

The page is read with one script at a time: an element that is asked twice may have been replaced.
"""

from __future__ import annotations

import shutil
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.integration.daemon_harness import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver") or shutil.which("chromedriver", path="/usr/lib/chromium")
MISSING = "needs Chromium and its driver: apt install chromium chromium-driver"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1440,900",
)  # fmt: skip

_TABLE = """
const cell = (row, key) => row.querySelector('.c-' + key).textContent;
return [...document.querySelectorAll('#rows tr')].map((row) => Object.fromEntries(
  ['name', 'status', 'engine', 'pid', 'uptime', 'restarts', 'exit', 'why'].map((key) => [key, cell(row, key)])));
"""


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a new profile, which is ended whatever happens."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.set_page_load_timeout(30)
        driver.set_script_timeout(30)
        yield driver
    finally:
        driver.quit()


class Page:
    """The page of one daemon, as a user has it before the eyes and under the fingers."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def load(self) -> None:
        self.driver.get(self.url)
        self.js("window.sameDocument = true")

    def login(self, token: str) -> None:
        self.find("#ask-token").send_keys(token + Keys.ENTER)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def is_same_document(self) -> bool:
        """False after a reload."""
        return bool(self.js("return window.sameDocument === true"))

    def until(self, look: Callable[[], Any], what: str) -> Any:
        try:
            return until(look, what, 15)
        except AssertionError as error:
            text = self.js("return document.body.innerText")
            raise AssertionError(f"{error}; the page shows:\n{text[:2000]}\n{self.driver.get_log('browser')}") from None

    # -- looking

    def is_shown(self, css: str) -> bool:
        return bool(self.js("return document.querySelector(arguments[0])?.checkVisibility() ?? false", css))

    def text(self, css: str) -> str:
        """What is displayed of it, "" when it is hidden."""
        return str(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", css))

    def find(self, css: str) -> WebElement:
        self.until(lambda: self.is_shown(css), f"{css} is shown")
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def wait_text(self, css: str, part: str) -> str:
        return str(self.until(lambda: part in (text := self.text(css)) and text, f"{css} shows {part!r}"))

    def wait_state(self, state: str) -> None:
        look = "return document.getElementById('connection').dataset.state"
        self.until(lambda: self.js(look) == state, f"the connection is {state}")

    def table(self) -> dict[str, dict[str, str]]:
        return {row["name"]: row for row in self.js(_TABLE)}

    def wait_row(self, name: str, **cells: str) -> dict[str, str]:
        """Wait until a row holds these parts in these columns."""

        def look() -> dict[str, str] | None:
            row = self.table().get(name)
            return row if row and all(part in row[key] for key, part in cells.items()) else None

        return dict(self.until(look, f"{name} shows {cells}"))

    def focus(self) -> str:
        """Where the keyboard is: an element's id, or the name of the box whose row it is."""
        script = """const at = document.activeElement;
        return at.closest('#rows') ? 'row ' + at.querySelector('.c-name').textContent : at.id || at.textContent;"""
        return str(self.js(script))

    # -- doing

    def press(self, *keys: str) -> None:
        """Keys to wherever the keyboard is."""
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def click(self, css: str) -> None:
        self.find(css).click()

    def open(self, name: str, tab: str) -> None:
        self.wait_row(name)
        script = """[...document.querySelectorAll('#rows tr')]
          .find((row) => row.querySelector('.c-name').textContent === arguments[0]).click()"""
        self.js(script, name)
        self.wait_text("#panel-name", name)
        self.click(f"#tab-{tab}")

    def emulate(self, **features: str) -> None:
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def as_usual(self) -> None:
        self.emulate()
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


class Relay(socketserver.ThreadingTCPServer):
    """A port of loopback that leads to a unix socket, as `ssh -L` makes one: a browser opens no unix sockets."""

    daemon_threads = True
    block_on_close = True

    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.path = path
        self.links: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/ui"

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        for link in self.links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Relayed(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with ExitStack() as stack:
            daemon = stack.enter_context(socket.socket(socket.AF_UNIX))
            daemon.connect(str(self.server.path))
            self.server.links += [daemon, self.request]
            back = threading.Thread(target=_pump, args=(daemon, self.request))
            back.start()
            stack.callback(back.join)
            _pump(self.request, daemon)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Until either side ends; then both do."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for side in (source, sink):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
