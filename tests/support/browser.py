"""A headless Chromium, driven through a pipe with the standard library alone: pages as a reader has them."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
    "PageDown": ("PageDown", 34, ""),
    "PageUp": ("PageUp", 33, ""),
    " ": ("Space", 32, " "),
}


def find_browser():
    """Return the path of a Chromium; None if there is none."""
    given = os.environ.get("CKPTBRIDGE_BROWSER")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(Exception):
    """The browser did not answer, or a script in the page failed."""


class Browser:
    """One page in a browser.

    Args:
        size: Width and height of the page in CSS pixels.
        dark: Whether the page is shown in dark colours.
        scale: Device pixels of a CSS pixel, for screenshots.

    Attributes:
        console: Text of each error and warning that a page logged or did not catch.
        requests: The address of everything that pages asked for.
    """

    def __init__(self, size=(1280, 800), *, dark=False, scale=1):
        self.size, self.dark, self.scale = size, dark, scale
        self.console, self.requests = [], []
        self._number, self._buffer, self._events = 0, b"", []

    def __enter__(self):
        self._folder = tempfile.mkdtemp(prefix="browser-")
        # Above the numbers 3 and 4, which the browser's ends get below.
        to_browser, self._out = map(_high, os.pipe())
        self._in, from_browser = map(_high, os.pipe())
        command = [
            find_browser(),
            "--headless=new",
            "--no-sandbox",  # containers run tests as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--user-data-dir={self._folder}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            self._session = None
            targets = self.send("Target.getTargets")["targetInfos"]
            page = next(one for one in targets if one["type"] == "page")
            attached = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
            self.resize(*self.size)
            self.theme("dark" if self.dark else "light")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error):
        self._end()

    def _end(self):
        with contextlib.suppress(BrowserError, OSError):
            self._session = None
            self.send("Browser.close", timeout=5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, method, timeout=60, **params):
        """Send a command of the DevTools protocol; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._out, data) :]
        number, limit = self._number, time.monotonic() + timeout
        while True:
            answer = self._read(limit, method)
            if answer.get("id") != number:
                self._note(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def _read(self, limit, waiting_for):
        while b"\0" not in self._buffer:
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise BrowserError(f"no answer: {waiting_for}")
            received = os.read(self._in, 1 << 20)
            if not received:
                raise BrowserError("the browser ended")
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event):
        method, params = event.get("method", ""), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        self._events.append(method)

    def _wait(self, method, timeout=60):
        limit = time.monotonic() + timeout
        while method not in self._events:
            self._note(self._read(limit, method))

    def open(self, url):
        """Open an address, or the path of a file, and wait until it is loaded."""
        if isinstance(url, Path):
            url = url.absolute().as_uri()
        self._events.clear()
        result = self.send("Page.navigate", url=url)
        if result.get("errorText"):
            raise BrowserError(f"{url}: {result['errorText']}")
        self._wait("Page.loadEventFired")

    def evaluate(self, script):
        """Return the value of an expression in the page; a promise is waited for."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    def press(self, key, *, shift=False):
        """Press a key: a name such as ``ArrowDown``, or one character."""
        known = key in _KEYS
        code, number, text = _KEYS[key] if known else (f"Key{key.upper()}", ord(key.upper()), key)
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common, **_if(text=text)
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        """Type a text into what has the focus."""
        self.send("Input.insertText", text=text)

    def click(self, x, y):
        """Click at a place of the page, in CSS pixels."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_on(self, selector):
        """Click in the middle of the first element of a selector."""
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.click(*box)

    def resize(self, width, height):
        """Give the page a size in CSS pixels."""
        self.size = (width, height)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=self.scale,
            mobile=False,
        )
        self.settle()

    def settle(self):
        """Wait until the page has drawn what it was told to."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def theme(self, name):
        """Show the page in ``light`` or ``dark`` colours."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path):
        """Write what is visible as a PNG."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))


def _high(descriptor):
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy


def _if(**given):
    return {name: value for name, value in given.items() if value}
