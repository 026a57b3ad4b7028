"""kill -9 at a random moment of any command: readers see the state before or after, and the next start completes it.

    nice python -m benchmarks.random_kills KEPT [--minutes 30] [--only SCENARIO ...] [--replay SCENARIO:SEED] [--quick]

Where `benchmarks.kills` kills at named points, this kills anywhere: the seed draws the moment, evenly over the time
that the command takes, and whether the command dies alone or with every process that it started (git, DVC, the Prefect
server, training workers). Then another process looks, does what the next start does a minute later, and looks again.

Kills take turns over the scenarios of `benchmarks.kill_scenarios`. Each is kept as one line of KEPT/random_kills.jsonl,
so that a second call goes on with the next seeds and the figures are of all calls together. A seed that failed is run
again first. Expected: random_kills >= 500, random_kills_between_states 0.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks import kills
from benchmarks.kill_scenarios import RANDOM_ONLY, SCENARIOS
from benchmarks.killing.server import SERVER
from benchmarks.record import Figure, report
from benchmarks.scratch import say
from tasks.common.files import write_json
from tests.support import shared

ALL = SCENARIOS | RANDOM_ONLY
SEEDS = 5  # data of an operation: the seed modulo this
LATER = 3600.0  # seconds by which the next start comes later: locks of the dead are old by then
ENDS_WITHIN = 120.0  # seconds in which what outlives the killed command must end


def draw(scenario: str, seed: int) -> tuple[float, bool]:
    """(share of the command's time at which it is killed, whether its whole process group is)."""
    chance = random.Random(f"{scenario} {seed}")
    return chance.random(), chance.random() < 0.5


def in_act(ready, scenario: str, root: Path, seed: int, out: Path) -> None:
    """Run the operation in a process group of its own, after telling that it begins."""
    os.setsid()
    os.environ["DVC_SITE_CACHE_DIR"] = str(root.parent / "dvc")
    with open(out.with_suffix(".log"), "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    ready.send(True)
    try:
        ALL[scenario].act(root, seed)
    except BaseException as error:
        write_json(out, {"error": repr(error)})
        raise


def kill(folder: Path, template: Path, scenario: str, seed: int, reference: dict) -> dict:
    """Kill once and check: {killed, at, of, group, wrong}."""
    share, group = draw(scenario, seed)
    root, at = folder / "project", share * reference["seconds"]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, root, symlinks=True)
    here, there = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=in_act, args=(there, scenario, root, seed % SEEDS, folder / "act.json"))
    process.start()
    there.close()
    here.recv()
    process.join(at)
    killed = process.is_alive()
    if killed:
        try:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended just now
            killed = False
    process.join()
    if killed and group and (victims := getattr(ALL[scenario], "victims", None)):
        victims(root, seed)
    found = {"killed": killed, "at": round(at, 3), "of": round(reference["seconds"], 3), "group": group}
    left = None if getattr(ALL[scenario], "outlived", False) else outlive(process.pid)
    age_locks(root)
    _, seen = kills.child("look", scenario, root, seed % SEEDS)
    return found | {"wrong": left or wrong(reference, seen)}


def wrong(reference: dict, seen: dict) -> str | None:
    """What is wrong with the states that were seen after a kill."""
    if "error" in seen or not seen:
        return seen.get("error", "nothing was seen")
    if seen["killed"] not in (reference["before"], reference["after"]):
        return f"between: {json.dumps(seen['killed'])[:300]}"
    if seen["again"] != reference["after"]:
        return f"not completed: {json.dumps(seen['again'])[:300]}"
    return None


def outlive(group: int) -> str | None:
    """Wait until what the killed process had started has ended by itself; what has not is named, and killed."""
    until = time.monotonic() + ENDS_WITHIN
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return None
        time.sleep(0.02)
    left = [" ".join(p.cmdline())[:80] for p in psutil.process_iter() if os.getpgid(p.pid) == group]
    os.killpg(group, signal.SIGKILL)
    return f"after {ENDS_WITHIN:.0f} s there still run: {left}"


def age_locks(root: Path) -> None:
    """Let git's lock files look as they do later: nobody holds them for so long."""
    for lock in (root / ".git").rglob("*.lock"):
        os.utime(lock, (time.time() - LATER,) * 2)


class Kept:
    """The kills of all calls, one line each; the last line of a (scenario, seed) counts."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.lock = folder / "random_kills.jsonl", threading.Lock()
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        self.found = {(row["scenario"], row["seed"]): row for row in map(json.loads, lines)}

    def add(self, row: dict) -> None:
        with self.lock, open(self.file, "a") as file:
            file.write(json.dumps(row) + "\n")
            self.found[row["scenario"], row["seed"]] = row

    def todo(self, wanted: list[str]):
        """Yield (scenario, seed): those that failed, then new seeds in turns, without end."""
        yield from [key for key, row in self.found.items() if row["wrong"] and key[0] in wanted]
        weights = Counter({name: getattr(ALL[name], "every", 1) for name in wanted})
        for turn in range(10**9):
            for name in wanted:
                if turn % weights[name] == 0:
                    seed = max((seed for one, seed in self.found if one == name), default=-1) + 1
                    self.found[name, seed] = {"killed": False, "wrong": None, "scenario": name, "seed": seed}
                    yield name, seed


def run(folder: Path, kept: Kept, todo, until: float, limit: int = 10**9) -> None:
    """Kill until the time is over, `kills.WORKERS` at a time. Raises RuntimeError if a scenario could not be made."""
    makers = {name: threading.Lock() for name in ALL}
    templates: dict[str, Path] = {}
    references: dict[tuple[str, int], dict] = {}
    taking, left, broken = threading.Lock(), [limit], set()

    def referred(name: str, seed: int) -> tuple[Path, dict]:
        with makers[name]:
            if name not in templates:
                template = kills.place(folder / "templates", name)
                template.parent.mkdir(parents=True)
                _, made = kills.child("make", name, template)
                if "error" in made or not template.is_dir():
                    raise RuntimeError(f"{name}: no project: {made}")
                templates[name] = template
            if (name, seed) not in references:
                root = folder / "references" / f"{name}-{seed}" / "project"
                shutil.copytree(templates[name], root, symlinks=True)
                _, found = kills.child("reference", name, root, seed)
                if "error" in found or not found:
                    raise RuntimeError(f"{name} seed {seed}, not killed: {found}")
                shutil.rmtree(root.parent)
                references[name, seed] = found
            return templates[name], references[name, seed]

    def work(number: int) -> None:
        while time.monotonic() < until:
            with taking:
                if left[0] == 0 or (job := next(todo, None)) is None:
                    return
                left[0] -= 1
            name, seed = job
            if name in broken:
                continue
            try:
                template, reference = referred(name, seed % SEEDS)
            except RuntimeError as error:  # the others go on
                broken.add(name)
                say(str(error))
                continue
            at = folder / f"kill-{number}"
            row = {"scenario": name, "seed": seed} | kill(at, template, name, seed, reference)
            kept.add(row)
            if row["wrong"]:
                say(f"{name}:{seed} killed after {row['at']} of {row['of']} s: {row['wrong']}")
            else:
                shutil.rmtree(at, ignore_errors=True)

    with ThreadPoolExecutor(kills.WORKERS) as pool:
        list(pool.map(work, range(kills.WORKERS)))
    if broken:
        raise RuntimeError(f"not killed, because they could not be made or done once: {', '.join(sorted(broken))}")


def figures(kept: Kept) -> list[Figure]:
    rows = [row for row in kept.found.values() if row["killed"]]
    each = Counter(row["scenario"] for row in rows)
    spread = ", ".join(f"{name} {count}" for name, count in sorted(each.items()))
    bad = [f"{row['scenario']}:{row['seed']}" for row in kept.found.values() if row["wrong"]]
    alone = sum(not row["group"] for row in rows)
    return [
        Figure(
            name="random_kills",
            value=len(rows),
            unit="",
            goal=500,
            better="higher",
            spread=f"{alone} of the command alone, {len(rows) - alone} with all that it started: {spread}",
        ),
        Figure(
            name="random_kills_between_states",
            value=len(bad),
            unit="",
            goal=0,
            better="lower",
            spread=", ".join(bad) or "none",
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, help="folder that keeps the kills of all calls")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--replay", help="SCENARIO:SEED, once, and the project stays")
    parser.add_argument("--quick", action="store_true", help="one kill of each cheap scenario; records nothing")
    options = parser.parse_args(arguments)
    kept = Kept(options.kept)
    if options.replay:
        os.environ.setdefault(shared.FOLDER, tempfile.mkdtemp(prefix="evergreen-random-kills-"))
        name, _, seed = options.replay.partition(":")
        folder = Path(tempfile.mkdtemp(prefix="evergreen-random-kills-"))
        run(folder, kept, iter([(name, int(seed))]), float("inf"))
        print(f"see {folder}\n{json.dumps(kept.found[name, int(seed)], indent=2)}", file=sys.stderr)
        return
    wanted = [name for name in options.only if name in SCENARIOS] if options.quick else options.only
    with tempfile.TemporaryDirectory(prefix="evergreen-random-kills-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault(shared.FOLDER, f"{folder}/shared")  # of the fork server, which starts later, too
        limit = len(wanted) if options.quick else 10**9
        run(Path(folder), kept, kept.todo(wanted), time.monotonic() + options.minutes * 60, limit)
    report("random_kills", "python -m benchmarks.random_kills KEPT", figures(kept), options.quick)


if __name__ == "__main__":
    main()
