"""How fast the console answers at 100,000 images and 5,000 windows, and how large its pages are.

    python -m benchmarks.console     # console_facets_p95_ms <= 300, console_page_p95_ms <= 200
    python -m benchmarks.console --quick     # 300 images, 20 windows, few requests
    python -m benchmarks.console --project FOLDER     # of a project that benchmarks.console_project made

The console runs as `evergreen up` runs it, in a process of its own. Every page is found by following the links from the
first one; of each kind of page at most PER_KIND are asked. A page's time is from the request to its last byte over a
loopback socket, gzipped as browsers ask for it. The slowest page's 95th percentile is the figure.
"""

import argparse
import gzip
import http.client
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import numpy as np

from benchmarks import console_project
from benchmarks.record import Figure, report
from flows.console.index.index import Index, index_of
from flows.server.process import free_port
from tasks.common.access import basic
from tasks.common.checkout import checkout

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python -m benchmarks.console"
PER_KIND = 2  # pages asked of one kind, such as /images/{id}
MOST_KINDS = 120
FACETED = 50  # requests with two facets
KILOBYTES, NODES = 100, 1_500  # a page's limits
LEFT_OUT = ("/static/", "/thumbs/", "/live", "/jobs/", "/health", "/hooks/", "/sign-in", "/out", "/evidently")
NO_PAGE = re.compile(r"format=|/file$|\.webp|\.json|\.css|/archive|/evidently|/heat$|\.html$|/download")


class _Page(HTMLParser):
    """The links and the number of elements of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.links: list[str] = []
        self.nodes = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.nodes += 1
        for name, value in attrs:
            if (name in ("href", "hx-get") and tag != "link") and value and not value.startswith(("#", "data:")):
                self.links.append(value)


@dataclass
class Client:
    """Asks a running console, signed in."""

    port: int
    auth: str

    def get(self, path: str, **headers: str) -> tuple[int, str, bytes, float]:
        """(status, content type, body as sent, milliseconds)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        named = {"Authorization": basic(self.auth), "Accept-Encoding": "gzip"}
        start = time.perf_counter()
        try:
            connection.request("GET", path, headers=named | {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        took = 1000 * (time.perf_counter() - start)
        if answer.status in (302, 303, 307):
            return self.get(answer.headers["Location"], **headers)
        packed = answer.headers.get("Content-Encoding") == "gzip"
        self.text = (gzip.decompress(body) if packed else body).decode("utf-8", "replace")
        return answer.status, answer.headers.get("Content-Type", ""), body, took


@dataclass
class Kind:
    """What was measured of one kind of page."""

    times: list[float] = field(default_factory=list)
    largest: int = 0  # bytes, gzipped
    nodes: int = 0
    broken: list[str] = field(default_factory=list)  # "address (from the page with the link)"
    status: set[int] = field(default_factory=set)

    @property
    def p95(self) -> float:
        return float(np.percentile(self.times, 95)) if self.times else 0.0


@contextmanager
def console(root: Path) -> Iterator[Client]:
    """The web server of the project at `root`."""
    port = free_port(0)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(root / ".evergreen/benchmark.log", "wb") as log:
        command = [sys.executable, "-m", "flows.console.web", str(port)]
        server = subprocess.Popen(command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        client = Client(port, checkout(root).auth)
        deadline = time.monotonic() + 120
        while True:
            try:
                if client.get("/health")[0] == 200:
                    break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((root / ".evergreen/benchmark.log").read_text()) from None
                time.sleep(0.2)
        yield client
    finally:
        server.terminate()
        server.wait(30)


def facet_times(client: Client, index: Index, requests: int, seed: int = 0) -> list[float]:
    """Milliseconds of first fragments of /images with any two facets that some images have."""
    _, counts = index.counts({})
    rng, found = random.Random(seed), []
    names = [name for name, values in counts.items() if len(values) > 1]
    while len(found) < requests:
        one, other = rng.sample(names, 2)
        values = [rng.choice(counts[name][:200])[0] or "" for name in (one, other)]
        path = f"/images?{one}={quote(values[0])}&{other}={quote(values[1])}"
        status, _, _, took = client.get(path, HX_Request="true")
        if status != 200:
            raise RuntimeError(f"{path} answered {status}")
        found.append(took)
    return found


def kind_of(path: str, query: str) -> str:
    """What kind of page an address is: ids, runs, windows and versions are left out."""
    path = re.sub(r"/[^/]*\d[^/]*", "/*", path)
    names = sorted({part.partition("=")[0] for part in query.split("&") if part and not part.startswith("after")})
    view = re.search(r"view=(\w+)", query)
    return path + (f"?{view[1]}" if view else "?…" if names else "")


def crawl(client: Client, repeats: int) -> dict[str, Kind]:
    """Every page that a link leads to, by kind."""
    kinds: dict[str, Kind] = {}
    asked: dict[str, int] = defaultdict(int)
    waiting, seen, linked = ["/"], {"/"}, {"/": "/"}
    while waiting:
        path = waiting.pop(0)
        parts = urlsplit(path)
        kind = kind_of(parts.path, parts.query)
        if asked[kind] >= PER_KIND or (kind not in kinds and len(kinds) >= MOST_KINDS):
            continue
        asked[kind] += 1
        about = kinds.setdefault(kind, Kind())
        for repeat in range(repeats):
            status, content, body, took = client.get(path)
            about.status.add(status)
            if status != 200 and not repeat:
                about.broken.append(f"{path} ({status}, linked from {linked[path]})")
            if not content.startswith("text/html"):
                break
            if repeat:  # the first may fill a cache
                about.times.append(took)
            about.largest = max(about.largest, len(body))
        else:
            page = _Page(client.text)
            about.nodes = max(about.nodes, page.nodes)
            for link in page.links:
                url = urljoin(path, link).split("#")[0]
                there = urlsplit(url)
                local = not there.netloc and not there.scheme
                if local and url not in seen and not there.path.startswith(LEFT_OUT) and not NO_PAGE.search(url):
                    seen.add(url)
                    linked[url] = path
                    waiting.append(url)
    return {kind: about for kind, about in kinds.items() if about.times or about.broken}


def measure(root: Path, faceted: int, repeats: int) -> tuple[list[Figure], list[str]]:
    """The figures, and lines about each kind of page."""
    for file in (root / ".evergreen/console").glob("index.sqlite*"):
        file.unlink()
    index = index_of(root)
    start = time.perf_counter()
    while not index.refresh():
        pass
    made = time.perf_counter() - start
    with console(root) as client:
        for _ in range(3):
            client.get("/images")
        facets = facet_times(client, index, faceted)
        kinds = crawl(client, repeats)
    broken = [line for about in kinds.values() for line in about.broken]
    slowest = max(kinds, key=lambda kind: kinds[kind].p95)
    largest, fullest = (max(kinds, key=lambda kind, of=of: getattr(kinds[kind], of)) for of in ("largest", "nodes"))
    spread = f"median {np.median(facets):.0f}, max {max(facets):.0f} of {len(facets)}"
    figures = [
        Figure(
            name="console_facets_p95_ms", value=float(np.percentile(facets, 95)), unit="ms", goal=300, better="lower",
            spread=spread,
        ),
        Figure(
            name="console_page_p95_ms", value=kinds[slowest].p95, unit="ms", goal=200, better="lower",
            spread=f"slowest of {len(kinds)} kinds of pages: {slowest}",
        ),
        Figure(
            name="console_page_kb", value=kinds[largest].largest / 1000, unit="kB gzipped", goal=KILOBYTES,
            better="lower", spread=f"largest: {largest}",
        ),
        Figure(
            name="console_page_nodes", value=kinds[fullest].nodes, unit="elements", goal=NODES, better="lower",
            spread=f"most: {fullest}",
        ),
        Figure(name="console_broken_links", value=len(broken), unit="links", goal=0, better="lower"),
        Figure(
            name="console_index_seconds", value=made, unit="s", goal=None, better="lower",
            spread=f"{index.counts({})[0]:,} images from nothing",
        ),
    ]  # fmt: skip
    lines = [
        f"{kind:60} p95 {one.p95:7.1f} ms  {one.largest / 1000:6.1f} kB  {one.nodes:5} nodes  {sorted(one.status)}"
        for kind, one in sorted(kinds.items(), key=lambda named: -named[1].p95)
    ]
    return figures, [*lines, *(f"broken: {line}" for line in broken)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--project", type=Path, help="made by benchmarks.console_project")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evergreen-benchmark-") as scratch:
        sizes = {"images": 300, "windows": 20, "runs": 5} if arguments.quick else {}
        root = arguments.project or console_project.make(Path(scratch) / "made", **sizes)
        figures, lines = measure(root.resolve(), 8 if arguments.quick else FACETED, 2 if arguments.quick else 16)
    print("\n".join(lines))
    report("console", COMMAND, figures, arguments.quick)


if __name__ == "__main__":
    main()
