"""The bundles that teach are here before a run trains, or it says what is missing."""

import shutil

import pytest

from flows.runs.teachers import fetch_teachers
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import cache_dir
from tasks.common.sections.training import DistillParams
from tasks.releases import bundle_store
from tasks.releases.bundle import digest, verify, write_manifest
from tasks.releases.store import Releases
from tasks.storage.local import LocalStore
from tests.support.checkout import ROOT


@pytest.fixture
def project(tmp_path):
    """(root, a folder with a bundle, a function that fetches teachers by name, the store)."""
    bundle, root = tmp_path / "bundle", tmp_path / "project"
    bundle.mkdir()
    root.mkdir()
    (bundle / "model.onnx").write_text("answers")
    write_manifest(bundle)
    releases = Releases(LocalStore(tmp_path / "store"))

    def fetch(*names: str) -> None:
        params = load_params(ROOT / "params.yaml")
        stage = params.train_backbone.model_copy(update={"distill": DistillParams(teachers=list(names))})
        fetch_teachers(root, params.model_copy(update={"train_backbone": stage}), releases)

    return root, bundle, fetch, releases


def test_a_teacher_is_restored_from_the_store_and_mended(project):
    root, bundle, fetch, releases = project
    name = digest(bundle)
    with pytest.raises(EvergreenError, match=rf"{name}.*neither in the release store nor .*evergreen distill"):
        fetch(name)
    bundle_store.put(releases.store, bundle)
    fetch(name, "resnet18")  # a network of timm is not a bundle
    found = cache_dir("bundles", root) / name
    verify(found)
    (found / "model.onnx").write_text("torn")
    fetch(name)
    verify(found)


def test_a_teacher_that_only_the_cache_has_is_enough(project):
    root, bundle, fetch, _ = project
    shutil.copytree(bundle, cache_dir("bundles", root) / digest(bundle))
    fetch(digest(bundle))
