"""Pages in a real Chromium: what a reader would see, and everything the browser complains about.

    with browser() as visit:                      # one Chromium for many pages
        page = visit(file, width=400, dark=True)  # a Path, or an http(s) URL
        assert page.problems == [] and page.images == page.images_loaded > 0
        page.screenshot(tmp_path / "page.png")

A visit ends when the next one begins: a tab of its own would cost two more processes, a second on a busy machine.
An installed Chromium is used, else the one that `playwright install chromium` fetched; `python -m
tests.support.browser`, which
`make test` runs first, installs one where there is neither.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.common.access import basic

HEIGHT = 900
CHROMIUM = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")

# every <img> of the page, whole or not; `decode` settles images that are still on their way, lazy ones too
_IMAGES = """async () => {
  const images = [...document.images];
  images.forEach(image => { image.loading = 'eager'; });
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  return [images.length, images.filter(image => image.complete && image.naturalWidth > 0).length];
}"""
_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"

# what a finger has to hit: 24 px (WCAG 2.2, 2.5.8); links within a sentence and what is laid over a label are exempt
_SMALL = """() => [...document.querySelectorAll('a, button, input, select, summary')].filter(e => {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const exempt = style.display === 'inline' || style.opacity === '0' || e.closest('label.zoom, .filter');
  return box.width && !exempt && (box.height < 24 || box.width < 24);
}).map(e => `${e.tagName} ${e.textContent.trim().slice(0, 30)}`)"""

# what a mouse can press and the keyboard cannot reach, or reaches without showing where it is
_UNREACHABLE = """() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [onclick]')]
  .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.type !== 'hidden')
  .filter(e => {
    e.focus({preventScroll: true, focusVisible: true});
    const drawn = e instanceof SVGElement;  // has a stroke instead of an outline
    const shown = drawn || getComputedStyle(e).outlineStyle !== 'none';
    return document.activeElement !== e || e.tabIndex < 0 || !shown;
  }).map(e => `${e.tagName} ${(e.textContent || e.name).trim().slice(0, 30)}`)"""

# text with a contrast below 4.5 (3 if large) to the colour behind it (WCAG 2.2, 1.4.3)
_FAINT = """() => {
  const numbers = text => { const found = text.match(/[\\d.]+/g).map(Number); return [...found, 1].slice(0, 4); };
  const linear = c => { c /= 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
  const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour[3] > .9) return colour;
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  };
  const faint = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    const style = getComputedStyle(e), svg = e instanceof SVGElement, colour = svg ? style.fill : style.color;
    if (!text || !e.getClientRects().length || !colour.startsWith('rgb(') || /^(SCRIPT|STYLE|OPTION)$/.test(e.tagName))
      continue;
    const [a, b] = [light(numbers(colour)), light(behind(e))].sort((x, y) => y - x), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if ((a + .05) / (b + .05) < (large ? 3 : 4.5)) faint.add(text.slice(0, 40));
  }
  for (const e of document.querySelectorAll('input[placeholder]')) {
    const style = getComputedStyle(e, '::placeholder'), box = numbers(getComputedStyle(e).backgroundColor);
    const [a, b] = [light(numbers(style.color)), light(box[3] ? box : behind(e))].sort((x, y) => y - x);
    if (e.getClientRects().length && (a + .05) / (b + .05) < 4.5) faint.add(`placeholder ${e.placeholder}`);
  }
  return [...faint];
}"""


@functools.cache
def _axe() -> str:
    """axe-core's script, as its Python package brings it."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def _program() -> str | None:
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


def installed() -> str | None:
    """The path of a Chromium; None where none is installed."""
    from playwright.sync_api import sync_playwright

    if program := _program():
        return program
    with sync_playwright() as playwright:
        fetched = playwright.chromium.executable_path
    return fetched if os.path.exists(fetched) else None


def install() -> None:
    """Make sure that there is a Chromium: by apt for root (on a bare machine its libraries are missing too), else by
    playwright into the user's cache. Exits with what to do where neither can."""
    if installed():
        return
    print("installing Chromium (once): tests open the pages in it", flush=True)
    steps = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        packages = ["chromium", "fonts-liberation"]
        steps = [["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "--no-install-recommends", *packages]]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in steps:
        done = subprocess.run(
            step,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        if done.returncode:
            break
    if not installed():
        sys.exit(
            f"{done.stdout[-2000:]}\n`{' '.join(step)}` ended with {done.returncode} (above), and the tests open pages "
            "in Chromium. Install it (Debian: `apt install chromium`; elsewhere: `.venv/bin/playwright install "
            "--with-deps chromium`), then run `make test` again."
        )


@dataclass
class Visit:
    """One opened page."""

    page: Any  # playwright's Page: click, locator, inner_text, ... for whatever else a test wants to know
    status: int | None  # HTTP status; None for a file
    problems: list[str]  # console errors and warnings, uncaught exceptions, failed requests, dialogs; grows with use
    requests: list[str]  # every URL the page asked for beyond itself; data: URIs are none
    images: int  # <img> elements
    images_loaded: int  # of them, those with pixels

    @property
    def text(self) -> str:
        """What is written on the page, closed sections left out."""
        return self.page.inner_text("body")

    @property
    def scrolls_sideways(self) -> bool:
        """The page is wider than the window: on a phone this is a fault."""
        return self.page.evaluate(_WIDE)

    @property
    def small_targets(self) -> list[str]:
        """What is too small to press."""
        return self.page.evaluate(_SMALL)

    @property
    def unreachable(self) -> list[str]:
        """What the keyboard cannot reach, or what does not show that it is reached."""
        return self.page.evaluate(_UNREACHABLE)

    @property
    def faint_texts(self) -> list[str]:
        """What stands out too little from its background."""
        return self.page.evaluate(_FAINT)

    @property
    def axe_violations(self) -> list[str]:
        """What axe-core finds wrong for people with a disability: rule, and the first element that breaks it."""
        if not self.page.evaluate("typeof window.axe === 'object'"):
            self.page.evaluate(_axe())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])})" for one in found]

    @property
    def unnamed_images(self) -> int:
        """Images without a text for those who do not see them."""
        return self.page.locator("img:not([alt]), img[alt='']").count()

    def screenshot(self, path: Path, whole: bool = True) -> Path:
        """A PNG of the whole page, or of the first screen only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), full_page=whole)
        return path


@contextmanager
def browser() -> Iterator[Callable[..., Visit]]:
    """`visit(target, *, width=1280, dark=False, user=None, scripts=True) -> Visit`; all pages close at the end.

    target: a file's Path or a URL; user: (name, password) for HTTP basic authentication.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=_program(), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        tabs: dict[tuple, _Tab] = {}

        def visit(
            target: Path | str,
            *,
            width: int = 1280,
            height: int = HEIGHT,
            dark: bool = False,
            user: tuple[str, str] | None = None,
            scripts: bool = True,
        ) -> Visit:
            if (user, scripts) not in tabs:
                sent = {"Authorization": basic(":".join(user))} if user else {}  # our pages do not ask for it
                context = chromium.new_context(extra_http_headers=sent, java_script_enabled=scripts)
                tabs[user, scripts] = _Tab(context.new_page())
            page = tabs[user, scripts].page
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme="dark" if dark else "light")
            url = target.resolve().as_uri() if isinstance(target, Path) else target
            return tabs[user, scripts].visit(url, scripts)

        try:
            yield visit
        finally:
            chromium.close()


class _Tab:
    """What a page says goes to the visit that is under way."""

    def __init__(self, page):
        page.set_default_timeout(60_000)
        self.page = page
        self._url, self._problems, self._requests, self._own = "", [], [], set()
        page.on("request", self._asked)
        page.on("console", self._said)
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self._problems.append(f"uncaught: {error}"))
        page.on("requestfailed", self._failed)

    def visit(self, url: str, scripts: bool) -> Visit:
        self.page.goto("about:blank")  # what the page before still does is not this one's
        self._url, self._problems, self._requests, self._own = url, [], [], set()
        reply = self.page.goto(url, wait_until="load", timeout=60_000)
        images, loaded = self.page.evaluate(_IMAGES) if scripts else (self.page.locator("img").count(), -1)
        status = reply.status if reply and url.startswith("http") else None
        return Visit(self.page, status, self._problems, self._requests, images, loaded)

    def _asked(self, request) -> None:
        self._own.add(request)
        if request.url.split("#")[0] != self._url.split("#")[0] and not request.url.startswith(("data:", "blob:")):
            self._requests.append(request.url)

    def _failed(self, request) -> None:
        # not what the page before had asked for, nor what a navigation cut off
        if request in self._own and "ERR_ABORTED" not in str(request.failure):
            self._problems.append(f"failed: {request.url[:200]} {request.failure}")

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self._problems.append(f"console {message.type}: {message.text}")

    def _dialog(self, shown) -> None:
        if shown.type == "beforeunload":  # what asks whether answers may be lost: the visit is over
            return shown.accept()
        self._problems.append(f"dialog: {shown.message}")
        shown.dismiss()


if __name__ == "__main__":
    install()
