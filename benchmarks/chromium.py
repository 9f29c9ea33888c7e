"""Times at which items appear on a page, measured by the page itself.

It uses Chromium's own protocol, as playwright enables debugging, which slows down large programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import browser

# Checks every 5 ms, starting before the page's own programs; times are since the request of the page.
WATCH = """
window.seen = {};
const watched = {EXPRESSIONS};
const watch = setInterval(() => {
  for (const name in watched) if (!(name in seen) && watched[name]()) seen[name] = performance.now() / 1000;
  if (Object.keys(seen).length === Object.keys(watched).length) clearInterval(watch);
}, 5);
"""
READ = """JSON.stringify(window.seen && Object.keys(window.seen).length === COUNT ? {...window.seen,
  paint: (performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN) / 1000} : null)"""


class Page:
    """One page of a Chromium."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._count = 0
        self._call("Page.enable")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._count:
                return dict(answer["result"])

    def times(self, url: str, expressions: Mapping[str, str], patience: float = 300.0) -> dict[str, float]:
        """Open a page; seconds until each expression is true, and until the first paint. Raises TimeoutError."""
        watched = ", ".join(f"{json.dumps(name)}: () => {expression}" for name, expression in expressions.items())
        program = WATCH.replace("EXPRESSIONS", watched)
        watch = self._call("Page.addScriptToEvaluateOnNewDocument", source=program)["identifier"]
        self._call("Page.navigate", url=url)
        begun = time.monotonic()
        while time.monotonic() - begun < patience:
            time.sleep(0.25)
            read = READ.replace("COUNT", str(len(expressions)))
            seen = json.loads(self._call("Runtime.evaluate", expression=read)["result"]["value"])
            if seen:
                self._call("Page.removeScriptToEvaluateOnNewDocument", identifier=watch)
                return dict(seen)
        raise TimeoutError(f"{url} does not show {', '.join(expressions)} within {patience:.0f} s")


@contextmanager
def launched(profile: Path, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A Chromium that keeps its cache in `profile`; its page."""
    options = [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [str(browser.CHROMIUM), *browser.FLAGS, *options, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = profile / "DevToolsActivePort"
        while not (told.exists() and told.read_text().strip()):
            time.sleep(0.05)
        with urlopen(f"http://127.0.0.1:{told.read_text().split()[0]}/json") as answer:
            (page,) = [target for target in json.load(answer) if target["type"] == "page"]
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            time.sleep(1)  # it has settled
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)
