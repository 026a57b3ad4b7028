"""Which stages and runs do typical edits trigger, and which of them can the edited files really change?

    python -m benchmarks.invalidation [--quick]

Commits each edit of EDITS in a copy of this project whose stages are recorded as done; no stage runs. DVC says which
stages would re-run, the input key says whether a run starts, and code versions say which caches would be filled again.
A second method says what must happen: the modules that a stage or a cache's module really loads (benchmarks.loaded),
the sections that the `run` of a stage takes, and the rule that prose changes no cached value. Modules that only carry
values (tasks.common.code lists them) do not count. Expected: nothing needless, nothing missed.
"""

import argparse
import ast
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from benchmarks.record import Figure, report
from benchmarks.scratch import change_params
from flows.repo import run_inputs
from flows.repo.git import git
from flows.repo.pipeline import open_repo, record_data
from tasks.common.code import CARRIERS, PLUMBING, code_version
from tasks.stages.runner import STAGES, sections, stage_module

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("tasks", "serving", "monitoring", "flows", "dvc.yaml", "params.yaml", "tombstones.json", "README.md")
COPIED += (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
COMMENT, CODE = "\n# an edit\n", "\nEDITED = True\n"
JUDGE, JUDGE_QUICK, STORE = "flows.publishing.judge_run", "tasks.gate.judge", "tasks.releases.store"

# (what, file, text to append); for params.yaml (what, file, (section, key, value))
EDITS = (
    ("a comment in the explanation of S3's errors", "tasks/storage/s3_errors.py", COMMENT),
    ("a comment in the decoder", "tasks/dataset/decode.py", COMMENT),
    ("the decoder", "tasks/dataset/decode.py", CODE),
    ("the gate's sentence", "tasks/gate/sentence.py", CODE),
    ("a key of inspect", "params.yaml", ("inspect", "near_duplicate_bits", 5)),
    ("a comment in the network's code", "tasks/models/stage1.py", COMMENT),
    ("the model card", "tasks/stages/bundle/card.py", CODE),
    ("a column of a table", "tasks/common/schemas.py", CODE),
    ("a metric", "tasks/scoring/metrics.py", CODE),
    ("an augmentation", "tasks/stages/train_backbone/augment/colour.py", CODE),
    ("a rule of validation", "tasks/stages/validate/rules.py", CODE),
    ("the page of validation", "tasks/stages/validate/page.py", CODE),
    ("the page of evaluation", "tasks/stages/evaluate/report.py", CODE),
    ("the search for near-duplicates", "tasks/inspection/near_duplicates.py", CODE),
    ("the probe", "tasks/models/probe.py", CODE),
    ("the export", "tasks/stages/calibrate/export.py", CODE),
    ("the atomic writes", "tasks/common/files.py", CODE),
    ("a reader of manifests", "tasks/sources/source.py", CODE),
    ("the adoption of foreign models", "tasks/adopt/build.py", CODE),
    ("the release store", "tasks/releases/store.py", CODE),
    ("the champion's evidence", "tasks/gate/champion.py", CODE),
    ("the predictor", "serving/predictor.py", CODE),
    ("a measure of drift", "monitoring/drift/distances.py", CODE),
    ("the production log", "monitoring/log/production_log.py", CODE),
    ("a column of the production log", "monitoring/log/schema.py", CODE),
    ("the release page", "flows/release_report/page.py", CODE),
    ("the images of the release page", "flows/release_report/images.py", CODE),
    ("the flow of a run", "flows/runs/retrain.py", CODE),
    ("the README", "README.md", "\nMore words.\n"),
    ("a key of images", "params.yaml", ("images", "fit", "crop")),
    ("a key of clean", "params.yaml", ("clean", "folds", 6)),
    ("a key of the gate", "params.yaml", ("gate", "margin", 0.5)),
    ("stage inspect", "tasks/stages/inspect.py", CODE),
    ("stage validate", "tasks/stages/validate/stage.py", CODE),
    ("stage embed", "tasks/stages/embed.py", CODE),
    ("stage clean", "tasks/stages/clean/stage.py", CODE),
    ("stage train_backbone", "tasks/stages/train_backbone/stage.py", CODE),
    ("stage train_head", "tasks/stages/train_head.py", CODE),
    ("stage calibrate", "tasks/stages/calibrate/stage.py", CODE),
    ("stage evaluate", "tasks/stages/evaluate/stage.py", CODE),
    ("stage bundle", "tasks/stages/bundle/stage.py", CODE),
)
QUICK = 5  # edits; with them one stage, one cache and a part of the judging, whose imports take under a second each


@dataclass
class Found:
    """What an edit triggers: names of stages, names of modules that fill caches, whether a run starts."""

    stages: set[str] = field(default_factory=set)
    caches: set[str] = field(default_factory=set)
    starts: bool = False


def copied_project(folder: Path) -> Path:
    """A committed copy of this checkout's project; every stage is recorded as done, with outputs of one byte."""
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "--", *COPIED).splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("batches", "annotations"):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "one.json").write_text("{}\n")
    (folder / "data/dataset.json").write_text("{}\n")
    git(folder, "init", "--quiet")
    record_data(folder)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].values()
    named = {name for stage in stages for name in stage["deps"] if name.startswith("artifacts/")}
    for name in sorted({*named, *(out for stage in stages for out in stage["outs"])}):
        file = folder / name if Path(name).suffix else folder / name / "made"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    for stage in stages:
        for (metrics,) in stage["metrics"]:
            (folder / metrics).parent.mkdir(exist_ok=True)
            (folder / metrics).write_text("{}\n")
    repo = open_repo(folder)
    with chdir(folder):  # DVC resolves stages against the current folder
        repo.commit(force=True)
    repo.close()
    _commit(folder)
    return folder


def _commit(project: Path) -> None:
    git(project, "add", "--all")
    git(project, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--message", "an edit")


def measured(project: Path, caches: list[str], edit: tuple) -> Found:
    """What `edit` triggers in `project`, which is restored afterwards."""
    key, versions = run_inputs.input_key(project, {}), _versions(project, caches)
    _, file, change = edit
    if isinstance(change, str):
        with open(project / file, "a") as text:
            text.write(change)
    else:
        section, name, value = change
        change_params(project, {section: {name: value}})
    _commit(project)
    repo = open_repo(project)
    with chdir(project):
        stages = set(repo.status())
    repo.close()
    now = _versions(project, caches)
    found = Found(stages, {name for name in caches if now[name] != versions[name]})
    found.starts = run_inputs.input_key(project, {}) != key
    git(project, "reset", "--quiet", "--hard", "HEAD~1")
    return found


def _versions(project: Path, caches: list[str]) -> dict[str, str]:
    code_version.cache_clear()
    return {name: code_version(name, root=project) for name in caches}


def expected(stages: list[str], caches: list[str], judge: str, edit: tuple) -> Found:
    """What `edit` can change, according to what is really loaded."""
    _, file, change = edit
    if not isinstance(change, str):
        return Found({name for name in stages if change[0] in sections(name)}, starts=True)
    module = ".".join(Path(file).with_suffix("").parts)
    found = Found({name for name in stages if module in loaded(stage_module(name)) - PLUMBING})
    if change != COMMENT:
        found.caches = {name for name in caches if module in loaded(name) - carried() - CARRIERS - PLUMBING}
    found.starts = (
        bool(found.stages) or file == "flows/publishing/judge_run.py" or module in loaded(judge) - carried() - PLUMBING
    )
    return found


@cache
def loaded(entry: str) -> frozenset[str]:
    command = [sys.executable, "-m", "benchmarks.loaded", entry]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{entry} cannot be imported: {done.stderr.strip()[-2000:]}")
    return frozenset(done.stdout.split())


def carried() -> frozenset[str]:
    """The release store and what it loads: these modules only carry the champion's bytes."""
    return loaded(STORE)


def cache_modules() -> list[str]:
    """Modules that key a cache by their code."""
    return sorted(
        {
            entry
            for file in sorted(ROOT.glob("*/**/*.py"))
            if file.relative_to(ROOT).parts[0] in COPIED
            for entry in _entries(ast.parse(file.read_text()))
        }
    )


def _entries(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "code_version":
            yield from (ast.literal_eval(one) for one in node.args)


def figures_of(pairs: list[tuple[Found, Found]]) -> list[Figure]:
    """The figures; `pairs` holds (measured, expected) of each edit."""
    of = f"of {len(pairs)} edits"
    reruns = sum(len(a.stages) for a, _ in pairs)
    runs = sum(a.starts for a, _ in pairs)
    filled = sum(len(a.caches) for a, _ in pairs)
    counts = {
        "needless_reruns": (sum(len(a.stages - b.stages) for a, b in pairs), f"{reruns} stages re-run, {of}"),
        "missed_reruns": (sum(len(b.stages - a.stages) for a, b in pairs), f"{reruns} stages re-run, {of}"),
        "needless_starts": (sum(a.starts and not b.starts for a, b in pairs), f"{runs} runs started, {of}"),
        "missed_starts": (sum(b.starts and not a.starts for a, b in pairs), f"{runs} runs started, {of}"),
        "needless_recomputations": (sum(len(a.caches - b.caches) for a, b in pairs), f"{filled} caches changed, {of}"),
        "missed_recomputations": (sum(len(b.caches - a.caches) for a, b in pairs), f"{filled} caches changed, {of}"),
    }
    return [
        Figure(name=name, value=value, unit="", goal=0, better="lower", spread=spread)
        for name, (value, spread) in counts.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    stages = ["inspect"] if quick else list(STAGES)
    caches = ["tasks.inspection.measure"] if quick else cache_modules()
    judge, edits = (JUDGE_QUICK, EDITS[:QUICK]) if quick else (JUDGE, EDITS)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(loaded, dict.fromkeys([*(stage_module(name) for name in stages), *caches, judge, STORE])))
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        project = copied_project(Path(folder))
        for edit in edits:
            found, must = measured(project, caches, edit), expected(stages, caches, judge, edit)
            found.stages &= set(stages)
            pairs.append((found, must))
            wrong = "" if found == must else f"; expected {_said(must)}"
            print(f"{edit[0]} ({edit[1]}): {_said(found)}{wrong}", file=sys.stderr)
    report("invalidation", "python -m benchmarks.invalidation", figures_of(pairs), quick)


def _said(found: Found) -> str:
    order = [name for name in STAGES if name in found.stages]
    return json.dumps({"stages": order, "caches": sorted(found.caches), "starts": found.starts})


if __name__ == "__main__":
    main()
