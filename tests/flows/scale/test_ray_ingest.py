"""An ingest on a Ray cluster: the same data, whatever happens to a worker or to an image."""

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import tasks.inspection.measure
from flows.project.ingest import ingest_unrecorded
from flows.scale import measuring
from flows.scale.measuring import _MeasureChunk, measured_by_ray
from flows.scale.spread import after_few
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, load_params
from tasks.sources.records import Columns
from tests.support.checkout import ROOT
from tests.support.ingesting import folder, image, take, tree
from tests.support.photos import encode
from tests.support.ray_cluster import killed_once, ray_cluster  # noqa: F401


def params_with(scale) -> Params:
    return load_params(ROOT / "params.yaml").model_copy(update={"scale": scale})


def set_engine(root: Path, engine: str) -> None:
    """Write the project's params.yaml, with a cluster that does not answer."""
    text, unset = (ROOT / "params.yaml").read_text(), "  engine: local\n  address: null\n"
    assert unset in text
    (root / "params.yaml").write_text(text.replace(unset, f"  engine: {engine}\n  address: 127.0.0.1:9\n"))


@dataclass(frozen=True)
class Stingy(_MeasureChunk):
    """The function of a task, with little memory for a decoder; its first worker is killed."""

    marker: Path | None = None

    def __call__(self, chunk):
        if killed_once(self.marker):
            os.kill(os.getpid(), signal.SIGKILL)
        tasks.inspection.measure.LEAST_MEMORY = 64 << 20
        tasks.inspection.measure.MEMORY_PER_PIXEL = 1
        return super().__call__(chunk)


def test_the_data_are_those_of_a_local_ingest_although_a_worker_dies_and_an_image_wants_too_much_memory(
    ray_cluster,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    source = folder(tmp_path / "s", 12)
    image(source, "a/bad.png", b"no image")
    params = params_with(ray_cluster)
    local = take(tmp_path / "local", source)
    image(source, "b/large.png", encode(Image.new("RGB", (6000, 6000)), compress_level=1))
    monkeypatch.setattr(measuring, "FEW", 3)
    monkeypatch.setattr(measuring, "CHUNK_ITEMS", 4)
    monkeypatch.setattr(measuring, "_MeasureChunk", partial(Stingy, marker=tmp_path / "killed"))
    said = []
    found = take(tmp_path / "ray", source, measure=lambda items: measured_by_ray(items, params, said.append))
    assert tree(tmp_path / "ray").keys() == tree(tmp_path / "local").keys()
    assert [one.reason for one in found.quarantined] == ["unknown_format", "decoder_crashed"]
    assert found.taken == local.taken == 12
    assert any("a worker died: 4 images to measure is done again (1 of 3)" in line for line in said)


def test_an_ingest_asks_the_cluster_of_params_yaml_if_it_has_more_than_a_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "FEW", 4)
    root = tmp_path / "project"
    root.mkdir()
    set_engine(root, "ray")
    options = {"kind": "import", "columns": Columns()}
    assert ingest_unrecorded(root, folder(tmp_path / "few", 4), **options).taken == 4
    with pytest.raises(EvergreenError, match=r"127\.0\.0\.1:9"):
        ingest_unrecorded(root, folder(tmp_path / "more", 5, start=10), **options)
    set_engine(root, "local")
    assert ingest_unrecorded(root, tmp_path / "more", **options).taken == 5


def test_what_comes_after_a_few_goes_elsewhere_in_order_and_only_if_there_is_more():
    def tagged(tag):
        return lambda items: (f"{tag}{item}" for item in items)

    def never(items):
        raise AssertionError(items)

    assert list(after_few(2, "abcd", tagged("h"), tagged("t"))) == ["ha", "hb", "tc", "td"]
    assert list(after_few(2, "ab", tagged("h"), never)) == ["ha", "hb"]
    assert list(after_few(2, "", tagged("h"), never)) == []
    read = iter("abcd")
    assert next(after_few(2, read, tagged("h"), never)) == "ha"
    assert list(read) == ["b", "c", "d"]
