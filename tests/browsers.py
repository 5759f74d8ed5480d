"""A headless Chromium for tests of pages, its pages, and what they are heard to play."""

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from scipy.signal import correlate

NAMES = ("chromium", "chromium-browser", "google-chrome")
TAP = """
registerProcessor('tap', class extends AudioWorkletProcessor {
  process([[channel]]) {
    this.port.postMessage([currentFrame, channel ? channel.slice() : new Float32Array(128)]);
    return true;
  }
});
"""


class StarvedError(AssertionError):
    """The machine was too busy for the browser to play without a gap."""


def patiently(test: Callable[..., None]) -> Callable[..., None]:
    """A test that is tried three times where the machine was too busy; what stays fails it."""

    @functools.wraps(test)
    def tried(*arguments: object, **named: object) -> None:
        for _ in range(2):
            with contextlib.suppress(StarvedError):
                return test(*arguments, **named)
        return test(*arguments, **named)

    return tried


def chromium() -> Iterator[Browser]:
    """Started, and closed behind; where KLANN_TEST_CHROMIUM is set, as in CI, its absence is an error."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None and not os.environ.get("KLANN_TEST_CHROMIUM"):
        pytest.skip("no Chromium is installed (Debian package chromium)")
    assert program is not None, f"KLANN_TEST_CHROMIUM is set, but none of {', '.join(NAMES)} is on the path"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


class Watched:
    """A page and what went wrong or out in it; `bypass_csp` lets a test add scripts of its own."""

    def __init__(self, browser: Browser, **settings: object) -> None:
        self.context = browser.new_context(**{"reduced_motion": "reduce", **settings})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append("a dialog opened"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") or "WARN" in text:
            self.faults.append(text)

    def open(self, index: Path | str) -> Page:
        self.page.goto(index if isinstance(index, str) else index.as_uri())
        return self.page

    def record(self, player: str = "engine") -> None:
        """Listen, from now on, to all that the page's player, or its live one, puts out."""
        self.page.evaluate(
            """async ([code, player]) => {
                const { context, output } = klann[player];
                await context.audioWorklet.addModule('data:text/javascript,' + encodeURIComponent(code));
                const tap = new AudioWorkletNode(context, 'tap', { numberOfOutputs: 0 });
                window.heard = [];
                tap.port.onmessage = ({ data }) => heard.push(data);
                output.connect(tap);
                while (heard.length < 2) await new Promise((done) => setTimeout(done, 5));
                heard.length = 0;  // the tap's first block comes before it is part of the sound's way
            }""",
            [TAP, player],
        )

    def heard(self, seconds: float) -> tuple[int, np.ndarray]:
        """What comes in the next seconds -> sample of the audio clock, samples [T]."""
        self.page.evaluate("heard.length = 0")
        return self.heard_since(seconds)

    def heard_since(self, seconds: float) -> tuple[int, np.ndarray]:
        """The same with what came before, since `record` or `heard`; fails where a block is missing."""
        self.page.wait_for_timeout(1000 * seconds)
        blocks = self.page.evaluate("heard.splice(0).map(([frame, block]) => [frame, [...block]])")
        frames = np.array([frame for frame, _ in blocks])
        if not (np.diff(frames) == 128).all():
            raise StarvedError("the recording has gaps")
        return int(frames[0]), np.concatenate([block for _, block in blocks])

    def close(self) -> None:
        self.context.close()


def watching(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Makes pages; at the end nothing must have gone wrong in them, but for what a test has expected."""
    made: list[Watched] = []

    def start(**settings: object) -> Watched:
        made.append(Watched(browser, **settings))
        return made[-1]

    yield start
    for one in made:
        one.close()
    assert [fault for one in made for fault in one.faults] == []


def place_in(part: np.ndarray, whole: np.ndarray) -> tuple[int, float, float]:
    """Where a heard part lies in a sound -> its first sample, its gain, the error in dB."""
    match = correlate(whole, part, "valid", "fft")
    sums = np.concatenate([[0.0], np.cumsum(whole**2)])
    energy = sums[len(part) :] - sums[: -len(part)]
    start = int(np.argmax(match / np.sqrt(energy + 1e-9)))
    known = whole[start : start + len(part)]
    gain = float(part @ known / (known @ known))
    error = np.sum((part - gain * known) ** 2) / np.sum(known**2)
    return start, gain, float(10 * np.log10(error + 1e-30))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
