"""kill -9 at every point: readers see the state before or after, and the next start completes it without a human.

    python -m benchmarks.kills [--quick] [--only SCENARIO]

Each scenario of `benchmarks.kill_scenarios` runs in its own process, which ends with SIGKILL at one of the points that
it reaches. This is repeated five times: the seed varies the data, and which of the visits to the point kills. Then
another process looks at the state, does what the next start does, and looks again. Expected: kill_points >= 30,
kills_between_states 0. A quick pass takes one point of each scenario.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.kill_scenarios import RANDOM_ONLY, SCENARIOS
from benchmarks.killing.server import SERVER
from benchmarks.record import Figure, report
from tasks.common.failpoints import hits
from tasks.common.files import read_json, write_json

WORKERS = 2
SECONDS = 600.0  # for one step, on a busy machine; a scenario may name more
UNKNOWN = 255  # multiprocessing's code when the fork server did not report the child's exit: try once more


def in_child(task: str, scenario: str, root: Path, seed: int, point: str, out: Path) -> None:
    """One step of a kill in its own process; it writes its result into `out`."""
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["EVERGREEN_FAILPOINT"] = point or "none"
    os.environ.pop("EVERGREEN_STATE", None)
    os.environ["DVC_NO_ANALYTICS"] = "true"
    os.environ["DVC_SITE_CACHE_DIR"] = str(root.parent / "dvc")
    found, result = (SCENARIOS | RANDOM_ONLY)[scenario], {}
    try:
        if task == "make":
            found.make(root)
        elif task == "reference":
            result["before"], began = found.state(root), time.monotonic()
            found.act(root, seed)
            result["seconds"] = time.monotonic() - began
            result["hits"] = dict(hits)
            result["after"] = found.state(root)
            getattr(found, "stop", lambda root: None)(root)
        elif task == "act":
            found.act(root, seed)
        elif task == "look":
            result["killed"] = found.state(root)
            found.again(root, seed)
            result["again"] = found.state(root)
            found.whole(root)
    except BaseException:
        result["error"] = traceback.format_exc(limit=-3)
    write_json(out, result)


def child(task: str, scenario: str, root: Path, seed: int = 0, point: str = "") -> tuple[int, dict]:
    """(exit code, result) of one step."""
    out = root.parent / f"{task}.json"
    process = SERVER.Process(target=in_child, args=(task, scenario, root, seed, point, out))
    process.start()
    process.join(getattr((SCENARIOS | RANDOM_ONLY)[scenario], "seconds", SECONDS))
    if process.is_alive():
        process.kill()
        return 1, {"error": f"{task} hangs"}
    return process.exitcode, read_json(out) if out.is_file() else {}


def place(folder: Path, scenario: str) -> Path:
    """The folder of a scenario's project: always at the same depth."""
    return folder / scenario / "project"


def kill(folder: Path, template: Path, scenario: str, point: str, seed: int, reference: dict) -> str | None:
    """Kill once and check; returns what is wrong, or None."""
    name = f"{scenario}: {point} seed {seed}"
    times = reference["hits"].get(point, 0)
    if not times:
        return f"{name}: the point is not reached"
    root = folder / "project"
    hit = 1 + (seed * 7919 + seed // 2) % times
    code, result = UNKNOWN, {}
    for _ in range(2):
        if code == UNKNOWN:
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(template, root, symlinks=True)
            code, result = child("act", scenario, root, seed, f"{point}:{hit}")
    if code != -signal.SIGKILL:
        return f"{name}: not killed (exit code {code}): {result.get('error')}"
    _, seen = child("look", scenario, root, seed)
    shutil.rmtree(folder, ignore_errors=True)
    if "error" in seen:
        return f"{name} (time {hit} of {times}): {seen['error']}"
    if seen["killed"] not in (reference["before"], reference["after"]):
        return f"{name} (time {hit} of {times}): between: {json.dumps(seen['killed'])[:300]}"
    if seen["again"] != reference["after"]:
        return f"{name} (time {hit} of {times}): not completed: {json.dumps(seen['again'])[:300]}"
    return None


def matrix(
    folder: Path, wanted: dict[str, tuple[str, ...]], seeds: int, reached: bool = False
) -> tuple[int, list[str], set[str]]:
    """(kills made, what was wrong, points) over scenarios x points x seeds.

    reached: also kill at every other point that a scenario reaches, so that a new one is taken up by itself.
    """
    jobs, wrong, points = [], [], set()
    with ThreadPoolExecutor(WORKERS) as pool:

        def prepare(scenario: str) -> str | None:
            root = place(folder / "templates", scenario)
            root.parent.mkdir(parents=True)
            _, result = child("make", scenario, root)
            return result.get("error")

        def refer(scenario: str, seed: int) -> dict:
            root = folder / "references" / f"{scenario}-{seed}" / "project"
            shutil.copytree(place(folder / "templates", scenario), root, symlinks=True)
            return child("reference", scenario, root, seed)[1]

        made = dict(zip(wanted, pool.map(prepare, wanted), strict=True))
        pairs = [(scenario, seed) for scenario in wanted if not made[scenario] for seed in range(seeds)]
        wrong += [f"{scenario}: no project: {error}" for scenario, error in made.items() if error]
        references = dict(zip(pairs, pool.map(lambda pair: refer(*pair), pairs), strict=True))
        for (scenario, seed), reference in references.items():
            if "error" in reference or not reference:
                wrong.append(f"{scenario} seed {seed}, not killed: {reference.get('error')}")
                continue
            further = sorted(set(reference["hits"]) - set(wanted[scenario])) if reached else ()
            for point in (*wanted[scenario], *further):
                points.add(point)
                at = folder / "kills" / f"{scenario}-{point}-{seed}"
                template = place(folder / "templates", scenario)
                jobs.append(pool.submit(kill, at, template, scenario, point, seed, reference))
        wrong += [found for job in jobs if (found := job.result())]
    return len(jobs), wrong, points


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one point of each scenario, one seed; records nothing")
    parser.add_argument("--only", help="one scenario; records nothing")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    wanted = {name: found.points for name, found in SCENARIOS.items() if options.only in (None, name)}
    if options.quick:
        wanted = {name: points[-1:] for name, points in wanted.items()}
    seeds = 1 if options.quick else options.seeds
    with tempfile.TemporaryDirectory(prefix="evergreen-kills-") as folder:
        kills, wrong, points = matrix(Path(folder), wanted, seeds, reached=not options.quick)
    for line in wrong:
        print(line, file=sys.stderr)
    spread = f"{len(points)} points in {len(wanted)} operations, {kills} kills"
    figures = [
        Figure(name="kill_points", value=len(points), unit="", goal=30, better="higher", seeds=seeds, spread=spread),
        Figure(
            name="kills_between_states", value=len(wrong), unit="", goal=0, better="lower", seeds=seeds, spread=spread
        ),
    ]
    report("kills", "python -m benchmarks.kills", figures, options.quick or options.only is not None)


if __name__ == "__main__":
    main()
