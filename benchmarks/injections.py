"""Does any of 300 hostile strings run, load or command something where it is shown?

    python -m benchmarks.injections     # every page in a real Chromium, and the terminal: injections_run is 0
    python -m benchmarks.injections --quick     # 24 strings

The strings are put into every field that a page shows: names of classes, files, sources, versions, keys, annotators,
reasons, notes, details, sentences. A dialog, an error of the browser, a request to anywhere else, and markup in the
page that the template does not make count. In the terminal, each control sequence that arrives counts.
"""

import argparse
import contextlib
import csv
import io
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.record import Figure, report

PROJECT = Path(__file__).parents[1]
STRINGS, QUICK = 300, 12
AT_ONCE = 12  # strings on one page
SHOWN = 10  # refused rows that `evergreen ingest` names
STRANGE = (  # which none of our templates makes
    "iframe, object, embed, base, link[rel=stylesheet]:not([href^='/static/']), meta[http-equiv=refresh]"
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TERMINAL = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x1b]52;c;b3duZWQ=\x07",
    "\x1b]8;;http://127.0.0.1:9\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[6n",
    "\x1bP$q\x1b\\",
    "\x9b31m",
    "\x1b[1A\x1b[2Kfine",
    "\rforged line",
    "\x08\x08\x08",
    "\u202edesrever\u2066",
    "\x7f\x00",
)
AROUND = (
    "{}",
    '"{}',
    "'{}",
    "-->{}",
    "</title>{}",
    "</style>{}",
    "]]>{}",
    "{}//",
    "`{}`",
    "${{{}}}",
    "\\{}",
    "&quot;{}",
)


def strings(count: int, seed: int) -> list[str]:
    """`count` hostile strings, each another, for pages and terminals."""
    from tests.support.hostile import PAYLOADS

    rng, found = random.Random(seed), list(dict.fromkeys([*PAYLOADS[:-1], *TERMINAL]))
    while len(found) < count:
        made = rng.choice(AROUND).format(rng.choice(PAYLOADS[:-1])) + rng.choice(("", *TERMINAL))
        if rng.random() < 0.3:
            made = "".join(letter.swapcase() if rng.random() < 0.3 else letter for letter in made)
        if made not in found:
            found.append(made)
    return found[:count] if count >= len(PAYLOADS) else rng.sample(found, count)


# --- pages: (name, file or address, user of a sign-in)

Page = tuple[str, Path | str, tuple[str, str] | None]


def window_pages(folder: Path, words: Sequence[str]) -> Iterator[Page]:
    """A window's page, the index with weeks of live accuracy, and Evidently's own page."""
    from monitoring.contracts import Check, DriftDecision, Finding
    from monitoring.live.periods import week_of
    from monitoring.pages import evidently, live, report
    from monitoring.pages.columns import MeasuredWindow
    from monitoring.pages.live import Live
    from tests.support import drift_windows
    from tests.support.live_weeks import week

    monday = week_of(drift_windows.times(7)[0].astimezone(UTC))
    classes = [*words, "Bag", "Coat"]
    word = words[0]
    window = drift_windows.window_table(7, classes=classes, source=words[-1])
    reference = drift_windows.reference_table(classes=classes)
    found = drift_windows.measures(7, window, reference, classes)
    findings = [Finding(name=one, status="drifted", value=2, threshold=1, detail=one) for one in words]
    findings += [Finding(name=f"softmax.{word}", status="drifted", value=2, threshold=1)]
    changed = found.window.model_copy(update={"version": word, "bundle": words[-1], "unreadable": list(words)})
    measures = found.model_copy(update={"findings": [*findings, *found.findings], "window": changed})
    checks = [Check(name=one, status="fail", detail=one) for one in words]
    decision = DriftDecision(
        outcome="label", sentence=" ".join(words), checks=checks, window=found.window.id, alarms=list(words)
    )
    weeks = [
        week(monday - n * timedelta(days=7), classes=classes, sources=(one, words[-1]), version=one, labels=400)
        for n, one in enumerate(words[:4])
    ]
    live.write(folder / "reports", Live(periods=live.in_order(weeks)))
    for name in ("key", "path"):
        at = window.schema.get_field_index(name)
        if at >= 0:
            import pyarrow as pa

            window = window.set_column(at, window.schema.field(name), pa.array([word] * len(window)))
    shown = MeasuredWindow(window, reference, measures, decision, classes)
    yield "window", report.write(folder / "reports", shown, [], done=list(words)), None
    yield "index", folder / "reports/index.html", None
    evidently.add(folder / "evidently", shown)
    (folder / "evidently.html").write_text(evidently.html(folder / "evidently", measures.window.id), encoding="utf-8")
    yield "evidently", folder / "evidently.html", None


def queue_page(folder: Path, words: Sequence[str]) -> Iterator[Page]:
    """The page on which people label."""
    from monitoring.review import page
    from monitoring.review.asked import Asked, ClassGuide
    from monitoring.review.page import Frame

    now = datetime(2026, 11, 21, tzinfo=UTC)
    asked = [
        Asked(
            id=f"{n:064x}",
            why=word,
            prediction=word,
            confidence=0.5,
            version=word,
            given=word,
            detail=word,
            source=word,
            key=word,
            path=word,
            at=now,
        )
        for n, word in enumerate(words)
    ]
    guides = [ClassGuide(name=word, text=word) for word in words]
    file = folder / "queue.html"
    frame = Frame([*words, "Bag"], False, 10**6, guides, person=words[0], due=words[-1])
    page.write(file, [(one, None) for one in asked], len(asked), frame)
    yield "queue", file, None


def served_pages(folder: Path, words: Sequence[str], stack: contextlib.ExitStack) -> Iterator[Page]:
    """The served pages: home, releases, a button's message, what a wrong address says."""
    from benchmarks.foreign_servers import serving
    from flows.console.app import create_app
    from tasks.common.checkout import checkout
    from tasks.common.params import load_params
    from tasks.releases.pointer import successor
    from tasks.releases.store import open_store

    (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    releases = open_store(load_params(folder / "params.yaml").store, folder)
    last = None
    for number, word in enumerate(words):
        last = successor(
            last,
            version=f"v0.{number + 1}.0",
            run_id=f"20261121-0800{number:02d}-ab12",
            git_rev="0" * 40,
            bundle="1" * 64,
            by=word,
            why=word,
        )
        releases.promote(last)
    port = stack.enter_context(serving(create_app(folder)))
    user = tuple(checkout(folder).auth.split(":", 1))
    for path in ("/",):
        yield f"served {path}", f"http://127.0.0.1:{port}{path}", user


# --- what is looked at


def looked_at(visit: Callable, page: Page) -> list[str]:
    """What ran or loaded on `page`."""
    name, target, user = page
    opened = visit(target, user=user) if user else visit(target)
    found = [f"{name}: {problem}" for problem in opened.problems]
    own = "/".join(str(target).split("/")[:3]) if isinstance(target, str) else "nothing"
    found += [f"{name}: asked for {url}" for url in opened.requests if not url.startswith(f"{own}/")]
    text = opened.page.locator(STRANGE).count()
    if text and name != "evidently":
        found.append(f"{name}: {text} elements of a stranger")
    if opened.page.evaluate("window.owned === 1 || document.body.innerText.includes('4949')"):
        found.append(f"{name}: a script or template ran")
    return found


def terminal(words: Sequence[str], folder: Path) -> list[str]:
    """Control sequences that commands print when they are given `words`, as arguments and in a table."""
    found = []
    for word in words:
        for command in (["tombstone", word, "--why", word], ["rollback", word], ["why", word], ["diff", word, word]):
            found += [f"terminal {command[0]}: {one!r}" for one in _printed(command)]
    for start in range(0, len(words), SHOWN):
        table = folder / f"images {start}.csv"
        with open(table, "w", newline="", encoding="utf-8", errors="replace") as file:
            rows = [[word.replace("\0", "")] * 4 for word in words[start : start + SHOWN]]
            csv.writer(file).writerows([["image", "label", "source", "key"], *rows])
        found += [f"terminal ingest: {one!r}" for one in _printed(["ingest", str(table), "--no-commit"])]
    return found


def _printed(command: list[str]) -> list[str]:
    """Control sequences in what `evergreen COMMAND` prints."""
    from flows.cli.main import main

    before, out = (sys.argv, sys.stdout, sys.stderr), io.StringIO()
    sys.argv = ["evergreen", *(word.replace("\0", "") for word in command)]
    sys.stdout = sys.stderr = out
    try:
        with contextlib.suppress(SystemExit):
            main()
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    return CONTROL.findall(out.getvalue())


def injected(words: list[str], folder: Path, visit: Callable) -> tuple[list[str], int]:
    """(what ran, or changed a page or the terminal; number of pages). `visit` opens pages in a browser."""
    from tests.support.released_project import copy

    wrong, pages = [], 0
    root = copy(folder)
    with contextlib.chdir(root):
        wrong += terminal(words, folder)
    with contextlib.ExitStack() as stack:
        for start in range(0, len(words), AT_ONCE):
            place, part = folder / str(start), words[start : start + AT_ONCE]
            for page in (*window_pages(place, part), *queue_page(place, part), *served_pages(place, part, stack)):
                pages += 1
                wrong += looked_at(visit, page)
    return wrong, pages


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} strings; records nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from tests.support.browser import browser

    words = strings(QUICK if options.quick else STRINGS, options.seed)
    with tempfile.TemporaryDirectory(prefix="evergreen-injections-") as folder, browser() as visit:
        wrong, pages = injected(words, Path(folder), visit)
    for line in wrong[:40]:
        print(line[:300], file=sys.stderr)
    spread = f"{len(words)} strings on {pages} pages and in 5 commands"
    figure = Figure(name="injections_run", value=len(wrong), unit="", goal=0, better="lower", spread=spread)
    report("injections", "python -m benchmarks.injections", [figure], options.quick)


if __name__ == "__main__":
    main()
