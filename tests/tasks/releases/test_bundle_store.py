"""Bundles in every kind of store: complete or absent, and no damaged byte returned."""

import json
from pathlib import Path

import pytest

from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes, write_json
from tasks.releases.bundle_store import StoreDamaged, read_file
from tasks.releases.store import Releases
from tests.support.stores import overwrite


def make_bundle(folder: Path, **content: str) -> Path:
    """A tiny bundle: its files and MANIFEST.json as the bundle stage writes it."""
    folder.mkdir(parents=True)
    files = {}
    for name, text in content.items():
        (folder / name).write_text(text)
        files[name] = {"sha256": sha256_bytes(text.encode()), "bytes": len(text)}
    write_json(folder / "MANIFEST.json", {"files": files})
    return folder


def test_a_bundle_comes_back_byte_for_byte(releases: Releases, tmp_path: Path):
    bundle = make_bundle(tmp_path / "bundle", **{"model.onnx": "weights", "bundle.json": "{}"})
    digest = releases.put_bundle(bundle)
    assert digest == sha256_bytes((bundle / "MANIFEST.json").read_bytes())
    assert releases.put_bundle(bundle) == digest
    releases.audit_bundle(digest)
    got = releases.get_bundle(digest, tmp_path / "got")
    assert {p.name: p.read_bytes() for p in got.iterdir()} == {p.name: p.read_bytes() for p in bundle.iterdir()}


def test_bundles_share_their_common_files(releases: Releases, tmp_path: Path):
    releases.put_bundle(make_bundle(tmp_path / "a", backbone="same", head="1"))
    releases.put_bundle(make_bundle(tmp_path / "b", backbone="same", head="2"))
    assert len(list(releases.store.list("objects/"))) == 3


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("victim", ["objects", "bundles"])
def test_damage_is_found_before_use_and_repaired_by_uploading_again(
    releases: Releases, tmp_path: Path, how: str, victim: str
):
    bundle = make_bundle(tmp_path / "bundle", model="weights")
    digest = releases.put_bundle(bundle)
    (key,) = releases.store.list(f"{victim}/")
    data = releases.store.read(key)[0]
    damaged = {"flip": bytes([data[0] ^ 1]) + data[1:], "truncate": data[:-1], "delete": None}
    overwrite(releases.store, key, damaged[how])
    with pytest.raises(StoreDamaged, match=key):
        releases.audit_bundle(digest)
    with pytest.raises(StoreDamaged, match=key):
        releases.get_bundle(digest, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert releases.put_bundle(bundle) == digest
    releases.audit_bundle(digest)
    assert (releases.get_bundle(digest, tmp_path / "got") / "model").read_text() == "weights"


def test_a_damaged_restored_copy_is_replaced(releases: Releases, tmp_path: Path):
    digest = releases.put_bundle(make_bundle(tmp_path / "bundle", model="weights"))
    got = releases.get_bundle(digest, tmp_path / "got")
    (got / "model").write_text("Weights")
    assert (releases.get_bundle(digest, got) / "model").read_text() == "weights"


def test_a_bundle_that_is_not_its_manifest_is_not_uploaded(releases: Releases, tmp_path: Path):
    bundle = make_bundle(tmp_path / "bundle", model="weights")
    (bundle / "model").write_text("other")
    with pytest.raises(EvergreenError, match="is not what MANIFEST"):
        releases.put_bundle(bundle)
    assert list(releases.store.list("bundles/")) == []
    with pytest.raises(EvergreenError, match="holds no bundle"):
        releases.put_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "MANIFEST.json", "."])
def test_a_manifest_cannot_write_outside_its_folder(releases: Releases, tmp_path: Path, name: str):
    digest = sha256_bytes(b"evil")
    releases.store.create(f"objects/{digest}", b"evil")
    manifest = json.dumps({"files": {name: {"sha256": digest, "bytes": 4}}}).encode()
    releases.store.create(f"bundles/{sha256_bytes(manifest)}.json", manifest)
    with pytest.raises(StoreDamaged, match="not a file name inside"):
        releases.get_bundle(sha256_bytes(manifest), tmp_path / "deep" / "got")
    assert not any(p.name == "evil" for p in tmp_path.rglob("*"))


def test_one_file_of_a_bundle_is_read_without_the_others(releases: Releases, tmp_path: Path):
    about = {"provisional": "0.4 is below 0.5"}
    bundle = make_bundle(tmp_path / "bundle", **{"model.onnx": "weights", "bundle.json": json.dumps(about)})
    digest = releases.put_bundle(bundle)
    overwrite(releases.store, f"objects/{sha256_bytes(b'weights')}", None)
    assert releases.provisional(digest) == "0.4 is below 0.5"
    assert read_file(releases.store, digest, "other") is None
    assert releases.provisional("0" * 64) is None
    overwrite(releases.store, f"objects/{sha256_bytes(json.dumps(about).encode())}", b"{}")
    with pytest.raises(StoreDamaged, match=r"bundle\.json of bundle"):
        releases.provisional(digest)
