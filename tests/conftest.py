"""Shared fixtures: small real projects in temporary folders."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from flows.startup import collect_less_garbage
from tests.support import shared
from tests.support.browser import Visit, browser
from tests.support.checkout import ROOT, git
from tests.support.files_together import FilesTogether
from tests.support.ray_cluster import ray_cluster  # noqa: F401  (a fixture)

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # three test processes on two cores: one of them waits for a server most of the time
os.environ["DO_NOT_TRACK"] = "1"
os.environ.pop("PREFECT_API_URL", None)
collect_less_garbage()

# files that one worker runs one after the other: a server, or a library that takes seconds to import, serves them all
TOGETHER = {
    "s3": ("store", "store_contract", "bundle_store", "s3_store", "s3_data", "versions_s3", "lease", "log"),
    "evidently": (
        *("benchmarks_drift", "evidently", "report", "monitor", "monitoring_settings", "site", "late_labels"),
        *("feedback", "mixed_versions", "private_project", "production_pages", "counts", "of_a_run"),
    ),
    "ray": (
        "ray_map",
        "ray_fill",
        "ray_engine",
        "ray_training",
        "ray_score",
        "ray_ingest",
        "ray_corrupted",
        "ray_features",
        "ray_head",
        "trial",
        "training",
    ),
    "great_expectations": (
        *("adopt", "validate", "validate_batches", "validate_classes", "validate_copies", "validate_synthetic"),
        *("batch_noise", "plain_expectations"),
    ),
}
GROUPS = {f"test_{name}": group for group, names in TOGETHER.items() for name in names}
# these start first (see --no-loadscope-reorder in the Makefile): no worker is left alone with one at the end
LONGEST = [
    "loop",
    "services",
    *TOGETHER["s3"],
    *TOGETHER["evidently"],
    *TOGETHER["great_expectations"],
    "bad_input",
]
LONGEST += [
    "bad_commands",
    "train_backbone",
    "training_loop",
    "deployed_models",
    "benchmarks_model",
    "forget",
    "kill_points",
    "benchmarks_data",
    "rollback",
    "held",
    "history",
]
LONGEST += ["publish", "capture", "release_report", "ingest_atomic", "review", "export", "evaluate", "gc"]


def pytest_collectstart(collector: pytest.Collector) -> None:
    """In a run of all tests, each worker begins with its share of the files, and finds those of the others compiled.

    Otherwise workers, which start together, would each compile every file.
    """
    config = collector.config
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and isinstance(collector, pytest.Session) and hasattr(config, "workerinput"):
        worker, workers = config.workerinput["workerid"].removeprefix("gw"), config.workerinput["workercount"]
        files = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
        left_out = tuple(map(Path, config.getoption("ignore") or ()))
        for path in files[int(worker) :: workers]:
            if not any(path.is_relative_to(folder) for folder in left_out):
                with suppress(Exception):  # collection meets it again, and reports it
                    import_module(".".join(path.with_suffix("").parts))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what the libraries hold is not garbage in any test


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    gc.freeze()  # pytest has just looked for garbage, and would do so again, and Python once more at its end


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> FilesTogether:
    return FilesTogether(config, log, GROUPS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    for item in items:
        if "benchmarks" in item.path.parts:
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory) -> None:
    own = tmp_path_factory.getbasetemp()
    shared.place((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared")  # of this run alone


@pytest.fixture(scope="module")
def visit() -> Iterator[Callable[..., Visit]]:
    """Opens pages in a real Chromium (tests/support/browser.py). While it is open, asyncio.run is an error in this
    module: playwright has a loop of its own."""
    with browser() as opened:
        yield opened


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A git + DVC project with a one-stage pipeline, data of two files and a remote; no model in it."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    root = tmp_path / "toy"
    (root / "data").mkdir(parents=True)
    (root / "tasks").mkdir()
    (root / "tasks" / "code.py").write_text("code = 1\n")
    (root / "data" / "a").write_text("1\n")
    (root / "data" / "dataset.json").write_text("{}\n")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "tombstones.json").write_text("{}\n")
    (root / ".gitignore").write_text("/data\n/artifacts\n/.evergreen\n")
    (root / "stage.sh").write_text(
        "mkdir -p artifacts metrics\ncp data/a artifacts/out\necho 1 >> runs.txt\n"
        "echo '{\"rows\": 1}' > metrics/inspect.json\n"
    )
    (root / "dvc.yaml").write_text(
        "stages:\n  inspect:\n    cmd: sh stage.sh\n"
        "    deps: [data]\n    outs: [artifacts/out]\n    metrics: [{metrics/inspect.json: {cache: false}}]\n"
    )
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    for name in ("config", ".gitignore"):
        (root / ".dvc").mkdir(exist_ok=True)
        (root / ".dvc" / name).write_text((ROOT / ".dvc" / name).read_text())
    from flows.repo.pipeline import record_data

    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")
    record_data(root)
    git(root, "add", "data.dvc")
    git(root, "commit", "-qm", "data")
    return root
