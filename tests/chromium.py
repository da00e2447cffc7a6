"""A headless Chromium to press and look at pages with, over its own pipe: no driver, no other package."""
import base64
import json
import os
import shutil
import subprocess
import time

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"])), None)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
NEEDS = "no chromium, chromium-browser, google-chrome or chrome on the PATH"


class Browser:
    "One page in a headless Chromium; `with Browser(folder) as page`"

    def __init__(self, folder, width=640, height=360):
        to_it, from_us = os.pipe()
        to_us, from_it = os.pipe()
        size = f"--window-size={width},{height}"
        command = [CHROMIUM, *QUIET, size, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
        fds = f'exec "$@" 3<&{to_it} 4>&{from_it}'  # where Chromium looks for its pipe
        self.process = subprocess.Popen(["bash", "-c", fds, "_", *command], pass_fds=(to_it, from_it), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(to_it), os.close(from_it)
        self.writes, self.reads, self.number, self.session = from_us, os.fdopen(to_us, "rb"), 0, None
        self.unread = [b""]
        page = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]

    def __call__(self, method, **asked):
        "Send one command of the protocol and wait for its answer"
        self.number += 1
        message = dict(id=self.number, method=method, params=asked) | (dict(sessionId=self.session) if self.session else {})
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.unread[-1]:  # a picture comes in many pieces
                self.unread.append(self.reads.read1(1 << 20))
                assert self.unread[-1], f"Chromium ended during {method}"
            last, _, rest = self.unread.pop().partition(b"\0")
            answer, self.unread = json.loads(b"".join([*self.unread, last])), [rest]
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, url, ready):
        "Go to a page, and wait until an expression holds in it"
        self("Page.navigate", url=url)
        self.wait(ready, 150)  # a long page on a busy machine

    def value(self, expression):
        "What a JavaScript expression is in the page"
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, seconds=60):
        "Until a JavaScript expression holds; its value"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        raise AssertionError(f"after {seconds} s still not: {expression}")

    def click(self, selector, across=0.5):
        "Press the mouse on an element, at a share of its width, as a hand would"
        box = self.value(f"(b => [b.x, b.y, b.width, b.height])(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        where = dict(x=box[0] + across * box[2], y=box[1] + box[3] / 2, button="left", clickCount=1)
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, **where)

    def screenshot(self, file):
        "The page as a PNG"
        file.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))

    def __enter__(self): return self

    def __exit__(self, *_):
        try: self("Browser.close")
        except (AssertionError, OSError): pass
        os.close(self.writes)
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()
        self.reads.close()
