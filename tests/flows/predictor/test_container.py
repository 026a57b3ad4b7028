"""The Containerfile: a linter accepts it, and what it installs and copies is enough for an answer."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement

from tests.support.checkout import ROOT
from tests.support.live_project import make
from tests.support.small_project import image_bytes

FILE = ROOT / "Containerfile"
ANSWER = """
import asyncio, sys
from pathlib import Path

allowed = set(sys.argv[2].split())

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed | sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"{name} is not in the container", name=name)

sys.meta_path.insert(0, Refuse())
import flows.predictor.run, flows.predictor.worker, tasks.storage.s3_store
from flows.predictor.serve import compose
from serving.service.contracts import Asked
from tasks.common.params import load_params

root = Path(sys.argv[1])
composed = compose(root, load_params(root / "params.yaml"))

async def answer():
    composed.service.start()
    found = await composed.service.answer([Asked(sys.stdin.buffer.read())], "r-1")
    composed.service.stop()
    return found[0].answered.prediction.label

print(asyncio.run(answer()))
assert composed.recorder.flush(60)
print(composed.recorder.stats)
"""


def text() -> str:
    return FILE.read_text().replace("\\\n", " ")


def plain(name: str) -> str:
    """The name of a package as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages() -> set[str]:
    """What the container installs, and what these packages need."""
    found, names = set(), re.search(r"--constraint \S+ +(.*)", text())[1].split()
    while names:
        name = plain(names.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needs = [Requirement(one) for one in requires(name) or []]
        except PackageNotFoundError:  # of another platform
            continue
        names += [one.name for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_a_linter_accepts_it():
    hadolint = shutil.which("hadolint", path=f"{sys.prefix}/bin")
    done = subprocess.run([hadolint, FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_runs_as_another_user_and_writes_only_into_its_volume():
    lines = text().splitlines()
    assert lines.index("USER 10001:10001") > max(n for n, line in enumerate(lines) if line.startswith(("RUN", "COPY")))
    assert "VOLUME /srv/project/.evergreen" in lines
    assert "PYTHONDONTWRITEBYTECODE=1" in text()
    assert len(re.findall("^FROM ", text(), re.MULTILINE)) == 2, "pip stays in the first stage"


def test_its_packages_have_versions_in_the_lock_and_leave_training_out():
    locked = re.findall(r"^([A-Za-z0-9._-]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    known = {plain(name) for name in locked}
    named = re.search(r"--constraint \S+ +(.*)", text())[1].split()
    assert {plain(name) for name in named} <= known
    assert not packages() & {"torch", "prefect", "pandas", "dvc", "fastapi", "scikit-learn"}


def test_its_packages_are_enough_for_an_answer_that_is_logged(tmp_path):
    root = make(tmp_path)
    inside = packages()
    named = {top: {plain(one) for one in of} for top, of in packages_distributions().items()}
    tops = {top for top, of in named.items() if of & inside}
    tops |= {"flows", "tasks", "serving", "monitoring"}
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(root), " ".join(tops)],
        input=image_bytes("Bag")[0],
        capture_output=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr.decode()
    label, stats = done.stdout.decode().splitlines()
    assert label == "Bag"
    assert "written=1" in stats
