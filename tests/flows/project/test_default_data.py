"""In a fresh clone, ingesting the default set gives exactly what data.dvc names: same input, same bytes."""

import shutil

import pytest
import yaml

from flows.project.ingest import NO_LAYOUT, ingest_command
from tasks.common.errors import EvergreenError
from tests.support.checkout import ROOT, git
from tests.support.ingesting import folder, samples


def test_later_ingests_read_paths_as_params_yaml_says(toy, tmp_path):
    shutil.rmtree(toy / "data")
    git(toy, "rm", "-q", "data.dvc")
    text = (toy / "params.yaml").read_text()
    assert "\n  layout: null\n" in text
    (toy / "params.yaml").write_text(text.replace("layout: null", "layout: '{class}/{site}_{*}'"))
    git(toy, "commit", "-qam", "no data yet")
    source = folder(tmp_path / "s", 4)
    for file in [*source.rglob("*.png")]:
        file.rename(file.with_name(f"north_{file.name}"))
    options = {"kind": "import", "commit": False, "new": False}
    with pytest.raises(EvergreenError, match=r"none of its paths fits the layout.*--layout none"):
        ingest_command(toy, folder(tmp_path / "other", 4), **options)
    ingest_command(toy, source, **options)
    assert [row["slice"] for row in samples(toy)] == [[{"name": "site", "value": "north"}]] * 4
    ingest_command(toy, folder(tmp_path / "plain", 6, start=4), layout=NO_LAYOUT, **options)
    assert sum(row["slice"] == [] for row in samples(toy)) == 6


def test_ingesting_the_default_set_gives_what_data_dvc_names(toy):
    shutil.rmtree(toy / "data")
    git(toy, "rm", "-q", "data.dvc")
    git(toy, "commit", "-qm", "no data yet")
    shutil.copytree(ROOT / "datasets", toy / "datasets")
    ingest_command(toy, None, kind="import", commit=False, new=False, columns=None, annotator=None)
    made, named = (yaml.safe_load((root / "data.dvc").read_text())["outs"][0]["md5"] for root in (toy, ROOT))
    assert made == named, "the default set or the way shards are written changed: ingest it again and commit data.dvc"
