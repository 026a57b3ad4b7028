"""Commands that change data/: restore, change, store with DVC, commit data.dvc alone."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flows.project.data_commit import commit_data, undone_if_refused
from flows.project.other_data import refuse_other_data
from flows.repo.git import check_repository, git
from flows.repo.pipeline import open_repo, record_data, restore_data
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, load_params, parse_params
from tasks.common.paths import state_dir
from tasks.dataset.shards import read_task
from tasks.ingest.batch import IngestReport, ingest
from tasks.ingest.reading import Measure
from tasks.sources.records import Columns

DEFAULT_SET = ("datasets/fashion/base.parquet", "datasets/fashion/hard.parquet")
NO_LAYOUT = "none"  # what --layout takes to ignore data.layout


def ingest_command(
    root: Path,
    source: Path | str | None,
    *,
    kind: str,
    commit: bool,
    new: bool,
    layout: str | None = None,
    time_format: str | None = None,
    **options,
) -> list[IngestReport]:
    """Add `source` to data/ and commit data.dvc; it is a path, s3://..., or None for the repository's default set.

    layout: a template of tasks.sources.layouts, NO_LAYOUT, or None for data.layout of params.yaml. time_format: how
    times are written, if not as data.time_format says. Raises EvergreenError if data.dvc names data that cannot be
    restored, unless `new` is set or the result is exactly what data.dvc names. With dry=True nothing is written.
    """
    params = load_params(root / "params.yaml")
    if time_format is not None:
        changed = params.data.model_dump() | {"time_format": time_format}
        params = params.model_copy(update={"data": parse_params({"data": changed}, "--time-format").data})
    check_repository(root, commit=False)
    if source is not None and not str(source).strip():
        raise EvergreenError(
            "the source to ingest is an empty name: expected a folder, a manifest or s3://bucket/prefix"
        )
    if source is not None:
        options["layout"] = chosen_layout(layout, params.data.layout)
    jobs = [(source, kind)] if source is not None else _default_set(root)
    if options.get("dry"):
        if (root / "data.dvc").is_file():
            restored_data(root)
        return [_ingest(root, params, path, of_kind, options) for path, of_kind in jobs]
    expected = _restore(root)
    with undone_if_refused(root):
        return _take(root, params, jobs, options, expected if not new else None, commit)


def _take(
    root: Path, params: Params, jobs: list[tuple[Path | str, str]], options: dict, expected: str | None, commit: bool
) -> list[IngestReport]:
    """Ingest `jobs` in turn and record the result; `expected`: the only md5 that data/ may have then."""
    here = set((root / "data").rglob("*"))
    reports = [_ingest(root, params, path, of_kind, options) for path, of_kind in jobs]
    before = (root / "data.dvc").read_bytes() if (root / "data.dvc").is_file() else None
    if not (root / "data").is_dir():
        return reports
    with _dvc_errors(root):
        found = record_data(root)
    if expected and found != expected:
        (root / "data.dvc").write_bytes(before)
        for file in set((root / "data").rglob("*")) - here:  # otherwise the next ingest would take it for the data set
            if file.is_file():
                file.unlink()
        raise EvergreenError(
            f"data.dvc names data {expected[:12]} that is neither here nor in the cache or remote, and this source "
            f"gives {found[:12]} instead. `dvc pull` it from where it was pushed, or start a new data set with --new."
        )
    if commit:
        commit_data(root, "; ".join(report.sentence() for report in reports))
    return reports


def chosen_layout(asked: str | None, fallback: str | None = None) -> str | None:
    """The template to read paths with: `asked`, or else `fallback`; None if `asked` is NO_LAYOUT."""
    return None if asked == NO_LAYOUT else asked or fallback


def _restore(root: Path) -> str | None:
    """Restore data/ as data.dvc records it; returns the md5 that could not be restored, None if all is well."""
    if not (root / "data.dvc").is_file():
        return None
    if (root / "data" / "dataset.json").is_file():
        refuse_other_data(root)
        return None
    with _dvc_errors(root), closing(open_repo(root)) as repo:
        try:
            restore_data(repo)
            return None
        except EvergreenError:
            (stage,) = repo.stage.collect(str(root / "data.dvc"))
            return stage.outs[0].hash_info.value


@contextmanager
def _dvc_errors(root: Path) -> Iterator[None]:
    """Turn DVC's own errors (unreadable data.dvc or .dvc/config, a lock, a link it cannot make) into EvergreenError."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise EvergreenError(
            f"DVC cannot work with {root / 'data'}: {error}{cause}. Repair data.dvc or .dvc/config (`git checkout` "
            "restores the committed ones) and run the same command again: what is in data/ stays."
        ) from error


def ingest_unrecorded(root: Path, source: Path, *, kind: str, columns: Columns) -> IngestReport:
    """Add a manifest to data/ and leave the record to the caller, who holds `undone_if_refused`."""
    return _ingest(root, load_params(root / "params.yaml"), source, kind, {"columns": columns})


def detached(root: Path) -> bool:
    """Is HEAD detached? The next `git switch` would leave a commit made there on no branch."""
    return git(root, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"


def _default_set(root: Path) -> list[tuple[Path, str]]:
    paths = [root / name for name in DEFAULT_SET]
    if missing := [path for path in paths if not path.is_file()]:
        raise EvergreenError(f"name a source to ingest: this project has no default set ({missing[0]} is not there)")
    return [(paths[0], "import"), (paths[1], "hard")]


def _ingest(root: Path, params: Params, source: Path | str, kind: str, options: dict) -> IngestReport:
    sections = {"data": params.data, "images": params.images, "inspect": params.inspect}
    with on_disk(root, source, params, options.get("columns")) as path:
        return ingest(root, path, kind=kind, **sections, **options, measure=_measure(params))


def _measure(params: Params) -> Measure | None:
    """What decodes and measures new images, if not this machine alone."""
    if params.scale.engine == "local":
        return None
    from flows.scale.measuring import measured_by_ray

    return lambda items: measured_by_ray(items, params)


@contextmanager
def on_disk(root: Path, source: Path | str, params: Params, columns: Columns | None = None) -> Iterator[Path]:
    """`source` as a path; an s3:// address is copied to .evergreen/spool and deleted when the block ends."""
    if not str(source).startswith("s3://"):
        yield Path(source)
        return
    from tasks.sources.s3_spool import spooled

    with spooled(str(source), state_dir(root) / "spool", params.store, columns) as path:
        yield path


def restored_data(root: Path) -> None:
    """Restore data/ as data.dvc records it, if it is not here. Raises EvergreenError if it cannot be restored."""
    if expected := _restore(root):
        raise EvergreenError(
            f"data.dvc names data {expected[:12]} that is neither here nor in the cache or remote: `dvc pull` it from "
            "where it was pushed; `evergreen connect` says what a clone lacks"
        )
    read_task(root / "data")  # raises where there is no data set
