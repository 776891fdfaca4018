"""A Chromium without a window, for tests of pages: driven through a pipe by its own protocol (Chrome DevTools)."""
import base64
import contextlib
import functools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_NAMES = "chromium", "chromium-browser", "google-chrome", "chrome"
_SECONDS = 60    # until an answer is late


@functools.cache
def find_chromium() -> str | None:
    """Return the path of a Chromium, if there is one that starts, and its pipes can be passed on."""
    found = [path for name in _NAMES if (path := shutil.which(name))] if sys.platform != "win32" else []
    return next((path for path in found if _starts(path)), None)


def _starts(path):
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run([path, "--version"], capture_output=True, timeout=_SECONDS).returncode == 0
    return False


def _until(condition, what):
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, f"never {what}"
        time.sleep(0.02)


class Browser:
    """One page in a browser of its own; a context manager.

    Parameters
    ----------
    program
        Of Chromium.
    downloads
        Folder for the files that a page offers.

    Attributes
    ----------
    requests : list of str
        Addresses that pages have asked for, but for those within them.
    errors : list of str
        What went wrong in their scripts, or was refused by their policy.
    """

    def __init__(self, program: str, downloads: str | Path):
        self._program, self._downloads = program, Path(downloads)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._number, self._session, self._received = 0, None, b""

    def __enter__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # It reads commands from descriptor 3, and writes answers to 4.
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, self._program, "--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio",
             "--no-first-run", "--autoplay-policy=no-user-gesture-required", "--remote-debugging-pipe",
             "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={self._profile.name}",
             "about:blank"],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._attach()
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
        finally:
            os.close(self._in)    # it would wait for what it says to be read
            os.close(self._out)
            try:
                self._process.wait(_SECONDS)
            finally:
                self._process.kill()
                self._profile.cleanup()

    def _attach(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self._downloads))

    def open(self, page: str | Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page from the disk, in a window of this size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        loader = self.call("Page.navigate", url=Path(page).resolve().as_uri())["loaderId"]
        # The answer comes before the page: what was there until now is complete, too.
        _until(lambda: self.call("Page.getFrameTree")["frameTree"]["frame"]["loaderId"] == loader, f"opened: {page}")
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page, JSON-able; of what it promises, if it promises one."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True,
                           userGesture=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        _until(lambda: self.evaluate(condition), condition)

    def downloaded(self, name: str) -> Path:
        """Wait for a file that a page offers, and return its path."""
        path = self._downloads / name
        _until(path.exists, f"downloaded: {name}")    # until it is whole it has another name
        return path

    def screenshot(self, path: str | Path, whole: bool = False) -> None:
        """Write a PNG file of what is in the window, or of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(picture))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = self._send(method, **parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event, parameters):
        if event == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])

    def _send(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _receive(self):
        while b"\0" not in self._received:
            assert select.select([self._in], [], [], _SECONDS)[0], "the browser does not answer"
            block = os.read(self._in, 1 << 16)
            assert block, "the browser has ended"
            self._received += block
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)
