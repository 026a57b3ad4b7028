"""Run every benchmark with its peers, one after the other, and write one page: `make bench`.

    make bench BENCH="--data ~/sets"            all of them, in order; goes on where it was stopped
    make bench BENCH="--list"                   what there is, what each needs, about how long it takes, how it ended
    make bench BENCH="--only gate splits"       these two
    make bench BENCH="--quick"                  quick passes: that no script rots; records nothing

A benchmark that has been measured runs again once its script or its arguments change, or with --again. One that failed
or lacked something is tried at every call. Figures go to docs/benchmarks/, the page is .bench/benchmarks.html. Nothing
else may run: figures of a busy machine say little.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import table
from benchmarks.bench.catalogue import BENCHMARKS, FOLDER, Benchmark, not_listed
from benchmarks.bench.page import write_page
from benchmarks.bench.running import Done, Place, check_names, lacking, read_done, run
from benchmarks.record import machine
from tasks.common.errors import EvergreenError


def listing(chosen: list[Benchmark], place: Place) -> list[str]:
    """One line per benchmark: name, minutes, what it needs, how it ended."""
    lines = []
    for one in chosen:
        done, missing = read_done(one, place), lacking(one, place)
        state = f"{done.outcome} {done.began[:10]}" if done else f"lacks {missing}" if missing else "to do"
        needs = ", ".join([*one.needs, *(f"peers: {name}" for name in [", ".join(one.peers)] if name)])
        lines.append(f"{one.name:<20}{one.minutes:>6.1f} min  {state}{f' ({needs})' if needs else ''}")
    left = [one for one in chosen if not _finished(one, place) and not lacking(one, place)]
    lines.append(f"{len(left)} of {len(chosen)} to do, about {sum(one.minutes for one in left) / 60:.1f} hours")
    if unlisted := not_listed():
        lines.append(f"not in benchmarks/bench/catalogue.py, so not run: {', '.join(unlisted)}")
    return lines


def _finished(one: Benchmark, place: Place) -> bool:
    done = read_done(one, place)
    return done is not None and done.outcome == "measured"


def run_all(
    chosen: list[Benchmark], place: Place, again: bool, listed: list[Benchmark] = BENCHMARKS
) -> dict[str, Done]:
    """Run those of `chosen` that are not finished; returns how all of `listed` have ended.

    Page and table of figures are renewed after each.
    """
    ended: dict[str, Done] = {}
    for number, one in enumerate(chosen, 1):
        about = f"[{number}/{len(chosen)}] {one.name}"
        if not again and _finished(one, place):
            print(f"{about}: measured before", flush=True)
        else:
            print(f"{about}: about {one.minutes:g} min ...", flush=True)
            done = run(one, place)
            said = "" if done.outcome == "measured" else f": {done.said.strip().splitlines()[-1] if done.said else ''}"
            print(f"{about}: {done.outcome} after {done.seconds / 60:.1f} min{said}", flush=True)
            if done.outcome == "measured" and not place.quick:
                table.write()
        ended = {known.name: found for known in listed if (found := read_done(known, place))}
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        write_page(page_file(place), [known.name for known in listed], ended, now, machine())
    return ended


def page_file(place: Place) -> Path:
    return place.state / ("quick.html" if place.quick else "benchmarks.html")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench BENCH=", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the image sets (Parquet)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured")
    parser.add_argument("--quick", action="store_true", help="the quick pass of each; records nothing")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--state", type=Path, default=FOLDER.parent / ".bench", help="folder for results and the page")
    options = parser.parse_args(arguments)
    check_names(options.only, [one.name for one in BENCHMARKS])
    data = options.data.expanduser().resolve() if options.data else None
    place = Place(data, options.state.resolve(), options.quick)
    chosen = [one for one in BENCHMARKS if not options.only or one.name in options.only]
    if options.list:
        print("\n".join(listing(chosen, place)))
        return 0
    ended = run_all(chosen, place, options.again)
    print(f"the page: {page_file(place)}")
    failed = [one.name for one in chosen if (found := ended.get(one.name)) and found.outcome == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}; see {place.state / 'logs'}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EvergreenError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: what was measured is kept, `make bench` goes on with the next one")
