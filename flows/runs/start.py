"""Choose what a run's training starts from, and pin it in the params.yaml of its workspace.

The pin (`train_backbone.start_bundle`) is what dvc.lock and the release commit record. HEAD is never changed, so a
promotion alone starts no run. A commit whose params.yaml has a pin is trained from that one.
"""

import io
import json
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.repo.git import git
from flows.repo.objects import ObjectLost, open_objects, outs_at
from flows.repo.pipeline import is_known
from flows.repo.start_pin import STAGE, pinned_at, write_pin
from tasks.common.artifacts import ACCEPTED, NETWORK, network_file
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, TrainBackboneParams
from tasks.common.paths import main_checkout
from tasks.releases import bundle_store
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, cached_bundle


class Chosen(NamedTuple):
    """The bundle to start from, None for the pretrained network, and why, for people."""

    bundle: str | None
    why: str


def pin_start(root: Path, params: Params, releases: Releases) -> str:
    """Pin the start in the workspace `root`, and put its bundle into the cache; returns what was chosen.

    "": the setting asks for no warm start.
    """
    wanted = params.train_backbone
    if wanted.start == "pretrained":
        return ""
    chosen = choose(root, wanted, releases)
    write_pin(root, chosen.bundle)
    if chosen.bundle is not None:
        cached_bundle(releases, chosen.bundle, root)
    return chosen.why


def choose(root: Path, wanted: TrainBackboneParams, releases: Releases) -> Chosen:
    """The start of a training that has to run now.

    Where one with the live version's own start is up to date, it stays: a promotion alone trains nothing.
    """
    if wanted.start_bundle is not None:
        return Chosen(wanted.start_bundle, f"from the bundle {wanted.start_bundle[:12]} that HEAD names")
    live = releases.live()
    if live is None:
        return Chosen(None, "from the pretrained network: no version is live yet")
    for pin in dict.fromkeys([pinned_at(root, live.git_rev), None]):
        write_pin(root, pin)
        if is_known(root, STAGE):
            return Chosen(pin, "as it was trained before")
    if refusal := why_not(root, wanted, releases, live):
        return Chosen(None, f"from the pretrained network: {refusal}")
    return Chosen(live.bundle, f"from {live.version}")


def why_not(root: Path, wanted: TrainBackboneParams, releases: Releases, live: Pointer) -> str:
    """Why a training cannot start from `live`; "": it can."""
    content = bundle_store.read_file(releases.store, live.bundle, "bundle.json")
    if content is None:
        return f"the bundle of {live.version} is not in the release store"
    about = json.loads(content)
    if "adopted" in about:
        return f"{live.version} was trained elsewhere"
    if about["backbone"]["backbone"] != wanted.backbone:
        return f"{live.version} has another backbone ({about['backbone']['backbone']})"
    if about["metrics"].get("train_head", {}).get("network") == "pretrained":
        return f"the network of {live.version} is the pretrained one"
    main = main_checkout(root)
    try:
        git(main, "cat-file", "-e", f"{live.git_rev}^{{commit}}")
        with open_objects(main) as objects:
            before = network_table(main, objects, live.git_rev)
    except EvergreenError as error:
        return f"the images that {live.version} was trained on cannot be read ({error})"
    now = pq.read_table(network_file(root, ACCEPTED.name), columns=["id", "split"])
    lost = no_longer_trained(before, now)
    if lost:
        return (
            f"{live.version} was trained on {lost} image(s) that are not training images now (erased, excluded, "
            "tombstoned or in another split), and a warm start would carry on what it learnt from them"
        )
    return ""


def network_table(main: Path, objects, rev: str) -> pa.Table:
    """id and split of the images that the network of commit `rev` was trained with. Raises ObjectLost."""
    outs = outs_at(main, rev)
    if (folder := outs.get(str(NETWORK.parent))) is None:
        raise ObjectLost(f"commit {rev[:12]} records no artifacts/validate")
    files = objects.files(folder)
    oid = files.get(f"{NETWORK.name}/{ACCEPTED.name}") or files[ACCEPTED.name]
    return pq.read_table(io.BytesIO(objects.read(oid)), columns=["id", "split"])


def no_longer_trained(before: pa.Table, now: pa.Table) -> int:
    """Training images of `before` that are not training images of `now`; both have id and split.

    Zero for each release in a row means that its network has seen nothing but its own training images.
    """
    ids = [table.filter(pc.equal(table["split"], "train"))["id"].combine_chunks() for table in (before, now)]
    return pc.sum(pc.invert(pc.is_in(ids[0], ids[1]))).as_py() or 0
