"""In a fresh clone, ingesting the default set gives exactly what data.dvc names: same input, same bytes."""

import shutil

import yaml

from flows.project.ingest import ingest_command
from tests.support.checkout import ROOT, git


def test_ingesting_the_default_set_gives_what_data_dvc_names(toy):
    shutil.rmtree(toy / "data")
    git(toy, "rm", "-q", "data.dvc")
    git(toy, "commit", "-qm", "no data yet")
    shutil.copytree(ROOT / "datasets", toy / "datasets")
    ingest_command(toy, None, kind="import", commit=False, new=False, columns=None, annotator=None)
    made, named = (yaml.safe_load((root / "data.dvc").read_text())["outs"][0]["md5"] for root in (toy, ROOT))
    assert made == named, "the default set or the way shards are written changed: ingest it again and commit data.dvc"
