"""A headless Chromium, for the tests of what pages look like and do: driven over the DevTools protocol through a pipe, without any package.

    with browser.started() as page:
        page.size(390, 844)
        page.scheme("dark")
        page.open("build/html/index.html")
        page.press("Tab", "Enter")
        assert page.run("document.title") == "..." and not page.errors and not page.foreign()
"""

import base64
import json
import math
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60  # seconds that any answer may take: a slow machine is no error
# Nothing is asked of the network, whatever a page names; what it asks for is written down all the same.
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-sync",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-crash-reporter", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--mute-audio", "--force-color-profile=srgb", "--lang=en", "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip
# The browser reads its orders from descriptor 3 and answers on 4; it ends when they are closed, as they are when the tests are killed.
PIPED = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
# The number of a key that has a name; a letter or digit has that of its capital.
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
SHIFT = 8


def chromium():
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def started():
    """A page of a browser of its own, 1280 x 800 and light, with nothing remembered; the browser is ended afterwards whatever happens."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        command = ["sh", "-c", PIPED, "sh", chromium(), *FLAGS, f"--user-data-dir={folder}"]
        places = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), folder)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=os.environ | places)
        try:
            yield Page(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdin.close()
            process.stdout.close()


class Page:
    """What is shown, and what it said: `errors` of its console and its scripts, `requests` it made, since it was last opened."""

    def __init__(self, process):
        self._process, self._heard, self._number, self._session = process, b"", 0, None
        self.errors, self.requests, self._loaded = [], [], set()
        shown = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=shown, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.setLifecycleEventsEnabled", enabled=True)
        self.size(1280, 800)
        self.scheme("light")

    # -- what is seen ---------------------------------------------------------------------------------------------------

    def open(self, place):
        """Go to a file or an address and wait until all of it is there, its formulas too; what was said before is forgotten."""
        self.errors, self.requests = [], []
        address = str(place) if "://" in str(place) else Path(place).resolve().as_uri()
        went = self.ask("Page.navigate", url=address)
        if "errorText" in went:
            raise FileNotFoundError(f"{address}: {went['errorText']}")
        self._listen(lambda _: went.get("loaderId") is None or went["loaderId"] in self._loaded, f"{address} to load")
        self.run("window.MathJax?.startup?.promise?.then(() => null)")

    def size(self, width, height):
        """The size of the window; one that is narrower than a tablet is a phone's, with touch."""
        phone, self._size = width < 600, (width, height)
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=phone)

    def scheme(self, name):
        """What the reader's system prefers: "light" or "dark". A site that is left to choose follows."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, path, whole=False):
        """A screenshot, png: of the window or of the whole page."""
        shown = self._size
        if whole:
            self.size(shown[0], math.ceil(self.ask("Page.getLayoutMetrics")["cssContentSize"]["height"]))
        Path(path).write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
        self.size(*shown)

    def foreign(self):
        """The requests that went elsewhere than to a file beside the page."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]

    # -- what is done ---------------------------------------------------------------------------------------------------

    def run(self, script):
        """The value of an expression in the page, JSON-able; a promise is waited for. Raises RuntimeError with what the page says."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in found:
            raise RuntimeError(_said(found["exceptionDetails"]))
        return found["result"].get("value")

    def until(self, script, seconds=PATIENCE):
        """Wait until an expression is true, looked at anew with each picture that the page draws; its value."""
        look = f"new Promise((done, never) => {{ const end = Date.now() + {1000 * seconds}; const look = () => {{ const value = {script}; "
        look += f"value ? done(value) : Date.now() > end ? never(new Error({json.dumps('never: ' + script)})) : setTimeout(look, 20); }}; look(); }})"
        return self.run(look)

    def press(self, *keys):
        """Press and let go of keys, one after the other: by their names ("Tab", "Shift+Tab", "ArrowRight", "a")."""
        for name in keys:
            shift, key = (SHIFT, name.removeprefix("Shift+")) if name.startswith("Shift+") else (0, name)
            number = KEYS.get(key) or ord(key.upper())
            event = {"key": key, "code": _code(key), "windowsVirtualKeyCode": number, "nativeVirtualKeyCode": number, "modifiers": shift}
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **event, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    def move(self, x, y, held=False):
        """Move the mouse to a point of the window, with its button held or not."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left" if held else "none", buttons=int(held))

    def click(self, x, y):
        self.drag((x, y))

    def drag(self, start, *way):
        """Press the mouse at a point of the window, move it from point to point, let go at the last."""
        self.move(*start)
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", buttons=1, clickCount=1)
        for point in way:
            self.move(*point, held=True)
        end = (start, *way)[-1]
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", buttons=0, clickCount=1)

    def centre(self, selector):
        """Where in the window the first element that a selector finds has its centre, after scrolling it into view."""
        found = self.run(
            f"(e => {{ if (!e) return null; e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        if found is None:
            raise LookupError(f"nothing on the page is {selector}")
        return found

    # -- the protocol ---------------------------------------------------------------------------------------------------

    def ask(self, method, **parameters):
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        answer = self._listen(lambda heard: heard.get("id") == number, method)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _listen(self, enough, what):
        """Take in messages until one is enough; it. Raises TimeoutError, and ConnectionError where the browser has ended."""
        end, message = time.monotonic() + PATIENCE, {}
        while not enough(message):
            while b"\0" not in self._heard:
                source = self._process.stdout.fileno()
                if not select.select([source], [], [], max(0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"the browser was waited for: {what}")
                part = os.read(source, 1 << 16)
                if not part:
                    raise ConnectionError(f"the browser ended: {what}")
                self._heard += part
            text, _, self._heard = self._heard.partition(b"\0")
            message = json.loads(text)
            self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event, told):
        if event == "Page.lifecycleEvent" and told["name"] == "load":
            self._loaded.add(told["loaderId"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(_said(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(part.get("value", part.get("description", ""))) for part in told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}".strip())


def _said(details):
    return details.get("exception", {}).get("description") or details["text"]


def _code(key):
    if key == " ":
        return "Space"
    return key if len(key) > 1 else f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"
