import shutil
from pathlib import Path

import pytest

from flows.scale import entries
from flows.scale.shared import LostObject, Place, shared_place
from tasks.common.artifacts import network_rows
from tasks.common.errors import DamagedFile, EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import StoreParams, load_params
from tasks.common.sealed import seal_of, sealed_path
from tasks.stages.train_backbone.stage import inputs
from tests.flows.scale.test_ray_fill import entry_bytes
from tests.support import small_project
from tests.support.checkout import ROOT
from tests.support.shared import networks

SHARD = f"{sha256_bytes(b'a shard')[:24]}.parquet"
ENTRY = "pixels/k/a.npy"


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(str(tmp_path / "place"), StoreParams())


def test_a_shard_is_stored_under_its_content_and_a_damaged_one_is_refused_and_deleted(place, tmp_path):
    (tmp_path / SHARD).write_bytes(b"a shard")
    place.put_shard(tmp_path / SHARD)
    assert place.shards() == {SHARD}
    place.fetch_shard(SHARD, tmp_path / "worker")
    assert (tmp_path / "worker" / SHARD).read_bytes() == b"a shard"

    (tmp_path / "place/shards" / SHARD).write_bytes(b"another")
    with pytest.raises(EvergreenError, match="had other content than its name says, and was deleted"):
        place.fetch_shard(SHARD, tmp_path / "other")
    assert not (tmp_path / "other" / SHARD).exists()
    assert place.shards() == set()

    (tmp_path / SHARD).write_bytes(b"damaged here")
    with pytest.raises(DamagedFile):
        place.put_shard(tmp_path / SHARD)
    with pytest.raises(EvergreenError, match="is not the name of a shard"):
        place.fetch_shard("../secret", tmp_path / "worker")


def cached(cache: Path, content: bytes) -> Path:
    """The folder `cache` with the sealed entry ENTRY in it."""
    with sealed_path(cache / ENTRY) as temporary:
        temporary.write_bytes(content)
    return cache


def test_an_entry_of_other_content_is_not_taken(place, tmp_path):
    digest = place.put_entry(ENTRY, cached(tmp_path / "cache", b"pixels"))
    assert digest == place.digest(ENTRY) == sha256_bytes(b"pixels")
    place.fetch_entry(ENTRY, tmp_path / "other", digest)
    assert seal_of(tmp_path / "other" / ENTRY) == digest

    (tmp_path / "place/objects" / digest).write_bytes(b"poison")
    with pytest.raises(EvergreenError, match="was deleted"):
        place.fetch_entry(ENTRY, tmp_path / "third", digest)
    assert not (tmp_path / "third" / ENTRY).exists()


@pytest.mark.parametrize("loss", ["damaged", "missing"])
def test_an_entry_whose_content_is_lost_can_be_put_there_again(place, tmp_path, loss):
    digest = place.put_entry(ENTRY, cached(tmp_path / "cache", b"pixels"))
    content = tmp_path / "place/objects" / digest
    content.write_bytes(b"poison") if loss == "damaged" else content.unlink()
    with pytest.raises(LostObject, match="start the command again to put it there"):
        place.fetch_entry(ENTRY, tmp_path / "other", digest)
    assert place.digest(ENTRY) is None

    again = place.put_entry(ENTRY, cached(tmp_path / "cache", b"made where arithmetic differs"))
    assert again == place.digest(ENTRY) != digest


def test_lost_content_of_another_digest_costs_no_entry(place, tmp_path):
    digest = place.put_entry(ENTRY, cached(tmp_path / "cache", b"pixels"))
    with pytest.raises(LostObject):
        place.fetch_entry(ENTRY, tmp_path / "other", sha256_bytes(b"of an earlier run"))
    assert place.digest(ENTRY) == digest


def test_damaged_content_is_replaced_by_who_has_it(place, tmp_path):
    digest = place.put_entry(ENTRY, cached(tmp_path / "cache", b"pixels"))
    (tmp_path / "place/objects" / digest).write_bytes(b"poison")
    assert place.put_entry(ENTRY, tmp_path / "cache") == digest
    assert (tmp_path / "place/objects" / digest).read_bytes() == b"pixels"


def test_a_folder_lies_next_to_the_main_checkout(tmp_path):
    params = load_params(ROOT / "params.yaml")
    assert shared_place(tmp_path, params) is None
    scale = params.scale.model_copy(update={"shared": "../exchange"})
    found = shared_place(tmp_path, params.model_copy(update={"scale": scale}))
    assert found.url == str((tmp_path.parent / "exchange").resolve())


def test_the_units_of_a_training_are_what_it_reads(tmp_path):
    small_project.copy(tmp_path)
    shutil.rmtree(tmp_path / ".evergreen", ignore_errors=True)
    networks(tmp_path)
    params = load_params(tmp_path / "params.yaml")
    units = entries.missing("train_backbone", tmp_path, params)
    assert {unit.kind for unit in units} == {"features", "pixels"}
    for unit in units:
        entries.make(unit, tmp_path)
    assert entries.missing("train_backbone", tmp_path, params) == []

    before = entry_bytes(tmp_path)
    rows = network_rows(tmp_path)
    for split in ("train", "calibration"):
        inputs(tmp_path, split, rows[split], params.train_backbone, params.images)
    assert entry_bytes(tmp_path) == before
