"""Every page of the console in a real browser: broken links, errors, what axe-core finds, size, sideways scrolling.

    python -m benchmarks.console_tour PROJECT [--shots FOLDER]        (a project's folder; `make demo` prints one)
    python -m benchmarks.console_tour --quick                          (a small made-up project)

From the first page it follows every link. Of pages that differ only by an id a few are opened, in 390 and 1280 px,
light and dark. Screenshots of one page of each kind go to FOLDER.
"""

import argparse
import gzip
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urljoin, urlsplit

from benchmarks.record import Figure, report

EACH = 2  # pages of one kind
Look = tuple[int, bool]  # width in px, dark
LOOKS: tuple[Look, ...] = ((1280, False), (1280, True), (390, False), (390, True))
HEIGHT, NARROW, TALLEST = 900, 500, 2400  # px; narrower pages are drawn down to the first screen only
NODES, KILOBYTES = 1500, 100
VIEW = "view"  # the part of a query that makes another page of it
ID = re.compile(r"^(?=.*\d)[0-9A-Za-z._:-]{6,}$")  # a part of an address that names one thing
FILES = ("/static/", "/thumbs/", "/live")  # no pages
LEAVES = ("/archive", "/raw", "/file", "/ui")  # files, and what leads away


@dataclass
class Tour:
    """What was found. Each list holds one line per page and fault."""

    pages: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    sideways: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)
    keyboard: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Everything wrong, one line each."""
        return [
            f"{name}: {line}"
            for name in ("broken", "errors", "foreign", "sideways", "axe", "keyboard", "large")
            for line in getattr(self, name)
        ]


def kind(address: str, queries: bool = True) -> str:
    """An address without what names one thing: pages of one kind share it. queries: filters make another kind."""
    parts = urlsplit(address)
    path = "/".join("*" if ID.match(part) else part for part in parts.path.split("/"))
    asked = {name for name, value in parse_qsl(parts.query) if value and (queries or name == VIEW)}
    return f"{path}?{'&'.join(sorted(asked))}"


def tour(
    site,
    visit: Callable,
    each: int = EACH,
    shots: Path | None = None,
    say: Callable[[str], None] = print,
    looks: Sequence[Look] = LOOKS,
    queries: bool = True,
) -> Tour:
    """Visit the pages of `site` (tests.support.console.ServedConsole)."""
    found, seen, opened = Tour(), {"/"}, {}
    left = [("/", "the start")]
    while left:
        address, origin = left.pop(0)
        name = kind(address, queries)
        if opened.get(name, 0) >= each:
            continue
        opened[name] = opened.get(name, 0) + 1
        status, headers, text = site.get(address, Accept="text/html")
        if status >= 400:
            found.broken.append(f"{address} ({status}), linked from {origin}")
            continue
        if 300 <= status < 400:  # the page that it leads to is visited instead
            opened[name] -= 1
            for link in links(f'<a href="{headers["location"]}">', address):
                if link not in seen:
                    seen.add(link)
                    left.insert(0, (link, address))
            continue
        if not headers.get("content-type", "").startswith("text/html") or address.endswith(LEAVES):
            continue
        say(address)
        found.pages.append(address)
        _size(found, address, text)
        _look(found, site, visit, address, shots if opened[name] == 1 else None, looks)
        for link in links(text, address):
            if link not in seen and opened.get(kind(link, queries), 0) < each:
                seen.add(link)
                left.append((link, address))
    return found


def links(text: str, address: str) -> Iterator[str]:
    """The pages of this server that a page links to."""
    for href in re.findall(r'<a\b[^>]*?\bhref="([^"]+)"', text):
        link = urlsplit(urljoin(address, href.replace("&amp;", "&")))
        if not link.netloc and not link.scheme and link.path.startswith("/") and not link.path.startswith(FILES):
            yield link.path + (f"?{link.query}" if link.query else "")


def _size(found: Tour, address: str, text: str) -> None:
    size = len(gzip.compress(text.encode(), 5)) / 1000
    if size > KILOBYTES:
        found.large.append(f"{address}: {size:.0f} kB gzipped, at most {KILOBYTES}")


def _look(found: Tour, site, visit: Callable, address: str, shots: Path | None, looks: Sequence[Look]) -> None:
    width, dark = looks[0]
    shown = visit(site.url + address, user=site.user, width=width, dark=dark)
    for width, dark in looks:
        where = f"{address} ({width} px, {'dark' if dark else 'light'})"
        shown.page.set_viewport_size({"width": width, "height": HEIGHT})
        shown.page.emulate_media(color_scheme="dark" if dark else "light")
        if shown.scrolls_sideways:
            found.sideways.append(where)
        found.axe += [f"{where}: {violation}" for violation in shown.axe_violations]
        if shots and (width > NARROW) != dark:  # of the four the two that differ most
            _draw(shown.page, shots / f"{_file(address)}{'-phone' if dark else ''}.webp", whole=width > NARROW)
    found.keyboard += [f"{address}: {one}" for one in shown.unreachable]
    found.errors += [f"{address}: {problem}" for problem in shown.problems]
    found.foreign += [f"{address}: {url}" for url in shown.requests if not url.startswith((site.url, "data:"))]
    nodes = shown.page.evaluate("document.querySelectorAll('*').length")
    if nodes > NODES:
        found.large.append(f"{address}: {nodes} elements, at most {NODES}")


def _file(address: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", kind(address).lower().replace("*", "one")).strip("-") or "now"


def _draw(page, file: Path, whole: bool) -> None:
    """A picture of the page for the docs, small enough to be in git."""
    from PIL import Image

    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.crop((0, 0, picture.width, min(picture.height, TALLEST))).save(file, quality=70, method=6)


def figures(found: Tour) -> list[Figure]:
    """The figures, each with its goal of none."""
    counted = {
        "axe_violations": found.axe, "console_broken_links": found.broken, "console_errors": found.errors,
        "console_requests_off_origin": found.foreign, "console_sideways_pages": found.sideways,
        "console_unreachable_by_keyboard": found.keyboard, "console_large_pages": found.large,
    }  # fmt: skip
    spread = f"{len(found.pages)} pages, 2 widths, 2 themes"
    about = {"unit": "", "goal": 0, "better": "lower", "spread": spread}
    return [Figure(name=name, value=len(lines), **about) for name, lines in counted.items()]


def main() -> None:
    """Tour a project and record the figures."""
    from benchmarks.console_project import make
    from tests.support.browser import browser
    from tests.support.console import serving

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, nargs="?", help="a project's folder")
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    parser.add_argument("--each", type=int, default=EACH, help="pages of one kind")
    parser.add_argument("--plain", action="store_true", help="filters make no other kind of page")
    parser.add_argument("--quick", action="store_true", help="a small made-up project")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.project or make(Path(folder), images=400, windows=60, runs=12)
        with serving(root) as site, browser() as visit:
            found = tour(site, visit, given.each, given.shots, queries=not given.plain)
    for line in found.faults():
        print(line)
    report("console_tour", "python -m benchmarks.console_tour PROJECT", figures(found), quick=given.quick)


if __name__ == "__main__":
    main()
