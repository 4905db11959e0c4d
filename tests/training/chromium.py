"""A headless Chromium that tests steer by its DevTools protocol, over a pipe; it writes down all that a page does."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE_S = 120
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    # What Chromium does by itself would hide what the page does.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-component-extensions-with-background-pages",
    "--disable-features=NetworkTimeServiceQuerying,PreconnectToSearch,OptimizationHints,Translate,MediaRouter",
    "--disable-sync",
    "--disable-client-side-phishing-detection",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
_FOR_PAGES = (101845102, 63171670)
"""Chromium's numbers for what pages load, and for where they go (blink_resource_loader, navigation_url_loader)."""
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""DevTools reads commands from 3 and writes to 4."""


@dataclass
class Page:
    """A page that was opened."""

    browser: Browser
    session: str
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self, **params)

    def ask(self, expression: str) -> Any:
        """The value of an expression in JavaScript; fails where it throws."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def complaints(self) -> list[str]:
        """Everything that its console says, and what was thrown and not caught."""
        seen = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(one["params"]) for one in self.events if one["method"] in seen]

    def requests(self) -> list[str]:
        """The addresses of everything that it asked for, whether it was let or not; the page itself is the first."""
        sent = [one for one in self.events if one["method"] == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in sent]

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])


class Browser:
    """A Chromium process with an empty profile, in a network namespace without anything where that may be made."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None
        self.net_log = folder / "net.json"
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        places = (f"--user-data-dir={folder / 'profile'}", f"--log-net-log={self.net_log}")
        command = [*_alone(), sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), PROGRAM, *_FLAGS, *places]
        command.append("about:blank")  # else it begins with a search engine
        environment = {"HOME": str(folder), "PATH": os.defpath, "LANG": "C.UTF-8"}
        with open(folder / "chromium.log", "wb") as log:
            self._process = subprocess.Popen(
                command,
                pass_fds=(theirs_in, theirs_out),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._pages: dict[str, Page] = {}

    def open(self, path: Path, *before: tuple[str, dict[str, Any]]) -> Page:
        """Open a file and wait until it is loaded; `before` are commands to give first."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
        for method, params in before:
            page.call(method, **params)
        page.call("Page.navigate", url=path.as_uri())
        while not any(one["method"] == "Page.loadEventFired" for one in page.events):
            self._take(self._message())
        return page

    def call(self, method: str, page: Page | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        os.write(self._to, json.dumps(message | ({"sessionId": page.session} if page else {})).encode() + b"\0")
        while (answer := self._message()).get("id") != number:
            self._take(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End it, if it was not ended before; after that its net log is whole."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        os.close(self._to)
        try:
            self._process.wait(_PATIENCE_S)
        finally:
            self._process.kill()
            os.close(self._from)

    def addresses(self) -> list[str]:
        """Every address that its network stack was asked for on behalf of a page; only after close().

        Its component updater asks for itself, whatever the flags say.
        """
        log = json.loads(self.net_log.read_text())
        kind = log["constants"]["logSourceType"]["URL_REQUEST"]
        asked = [one.get("params", {}) for one in log["events"] if one["source"]["type"] == kind]
        return [one["url"] for one in asked if one.get("traffic_annotation") in _FOR_PAGES]

    def _take(self, message: dict[str, Any]) -> None:
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None:
            page.events.append(message)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], _PATIENCE_S)[0], "Chromium says nothing"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


def _alone() -> list[str]:
    """What runs a program in a network namespace without anything; nothing where that may not be made."""
    words = ["unshare", "--map-root-user", "--net"]
    try:
        may = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return []
    return words if may else []


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser, or a skipped test where there is no Chromium."""
    if PROGRAM is None:
        pytest.skip("there is no chromium here (Debian: apt install chromium)")
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.close()
