"""What `evergreen verify --deep` hashes besides versions, in this checkout.

That is its data/, the production log, the outputs of stages and the caches. Every file is hashed and compared with its
name, with data.dvc or dvc.lock, or with its seal. Files whose digest is recorded nowhere are not looked at.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from flows.repo.damage import Wrong, outputs, repair, wrong_data
from flows.repo.pipeline import open_repo
from flows.versions.checker import Checked, Problem
from monitoring.log.parquet_files import UNREADABLE, open_parquet, open_seekable
from monitoring.log.production_log import open_log
from monitoring.log.shadow import FOLDER as SHADOW
from tasks.common.errors import DamagedFile, EvergreenError
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.common.sealed import SEAL, drop, is_damaged
from tasks.common.verified import check_named
from tasks.releases import bundle

PUT_BACK = "`evergreen verify --deep --repair` puts an undamaged copy in its place, if DVC's cache or remote has one"
DROPPED = "it is made again when it is needed; `evergreen verify --deep --repair` deletes it now"


def check_here(root: Path, params: Params, step: Callable[[str], None]) -> list[Checked]:
    """One line each for data/, the production log, outputs of stages and caches of the checkout `root`."""
    parts = {
        "(data)": lambda: _data(root),
        "(production log)": lambda: _log(root, params),
        "(outputs)": lambda: _outputs(root),
        "(caches)": lambda: _caches(root),
    }
    lines = []
    for name, part in parts.items():
        step(name)
        objects, size, problems = 0, 0, []
        for bytes_, problem in part():
            objects, size = objects + 1, size + bytes_
            problems += [problem] if problem else []
        if objects:
            lines.append(Checked(version=name, objects=objects, bytes=size, problems=problems))
    return lines


def repair_here(repo, problem: Problem) -> bool:
    """Repair a problem that `check_here` has found, if it can be; False if it is none of them."""
    if problem.place == "data":
        repair(repo, Path(problem.key))
    elif problem.place == "caches":
        drop(Path(problem.key))
    return problem.place in ("data", "caches")


Found = Iterator[tuple[int, Problem | None]]  # bytes of a file, and what is wrong with it


def _data(root: Path) -> Found:
    named = [*(root / "data").glob("*.parquet"), *(root / "data/annotations").glob("*.parquet")]
    for file in sorted(named):
        try:
            check_named(file)
            yield file.stat().st_size, None
        except DamagedFile as damage:
            yield file.stat().st_size, _problem("data", file, f"{file} is damaged (its sha256 is {damage.found})")
    if not (root / "data.dvc").is_file() or not (root / "data").is_dir():
        return
    with closing(open_repo(root)) as repo:
        for wrong in wrong_data(repo):
            if wrong.path in named and wrong.found is not None:
                continue  # said above
            what = "is missing" if wrong.found is None else f"differs from data.dvc (its md5 is {wrong.found})"
            yield 0, _problem("data", wrong.path, f"{wrong.path} {what}")


def _problem(place: str, file: Path, text: str) -> Problem:
    remedy = PUT_BACK if place == "data" else DROPPED
    return Problem(place=place, key=str(file), text=text, remedy=remedy, source=place)


def _log(root: Path, params: Params) -> Found:
    if "://" not in params.capture.url and not (root / params.capture.url).is_dir():
        return
    try:
        log = open_log(root, params)
        keys = [key for part in ("2", "labels/", f"{SHADOW}/2") for key in log.store.list(part)]
    except (EvergreenError, OSError) as error:
        remedy = "repair what it says, or capture.url"
        yield 0, Problem(place="log", key="", text=f"the production log cannot be read: {error}", remedy=remedy)
        return
    for key in keys:
        try:
            with open_seekable(log.store, key) as file:
                if file is not None:
                    parquet = open_parquet(file, _schema(log, key))
                    for group in range(parquet.num_row_groups):
                        parquet.read_row_group(group)
            yield log.store.about(key)[0], None
        except UNREADABLE as error:
            remedy = "restore it from a backup, or delete it: readers leave it out"
            yield 0, Problem(place="log", key=key, text=f"{key} in the production log: {error}", remedy=remedy)


def _schema(log, key: str):
    from monitoring.log.schema import late_labels_schema

    return late_labels_schema(log.task) if key.startswith("labels/") else log.schema


def _outputs(root: Path) -> Found:
    ended = [file.parent / "tree" for file in sorted((state_dir(root) / "runs").glob("*/ended.json"))]
    for tree in [root, *ended]:
        if (tree / "dvc.lock").is_file() and (tree / "artifacts").is_dir():
            with closing(open_repo(tree)) as repo:
                for file, wrong in outputs(repo):
                    if file.is_file():  # a checkout need not have them
                        yield file.stat().st_size, _output_problem(wrong) if wrong else None


def _output_problem(wrong: Wrong) -> Problem:
    what = f"is damaged (its md5 is {wrong.found})"
    remedy = "a run, `evergreen approve` and `evergreen promote` replace it, make it again or refuse it"
    return Problem(place="outputs", key=str(wrong.path), text=f"{wrong.path} {what}", remedy=remedy)


def _caches(root: Path) -> Found:
    cache = state_dir(root) / "cache"
    for file in sorted(cache.rglob("*")):
        if file.suffix != SEAL and file.with_suffix(SEAL).is_file() and file.is_file():
            text = f"{file} is damaged (its seal is another one)"
            yield file.stat().st_size, _problem("caches", file, text) if is_damaged(file) else None
    for folder in sorted((cache / "bundles").glob("*")):
        if (folder / bundle.MANIFEST).is_file():
            yield sum(file.stat().st_size for file in folder.iterdir()), _bundle(folder)


def _bundle(folder: Path) -> Problem | None:
    try:
        bundle.verify(folder)
        if bundle.digest(folder) == folder.name:
            return None
        text = f"{folder / bundle.MANIFEST} is damaged"
    except bundle.BundleDamaged as error:
        text = str(error)
    return Problem(place="bundles", key=str(folder), text=text, remedy="it is fetched again when it is needed")
