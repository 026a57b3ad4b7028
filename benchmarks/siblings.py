"""Are tracks that nobody recorded found again, by file names and without them, and nothing where there is nothing?

    python -m benchmarks.siblings KEPT [--signs FILE] [--others FILE ...] [--quick]

FILE is Parquet with the columns image {bytes, path} and label; that of --signs (belgium-signs) has the column pole too,
which is the true group: 53 classes of signs, about three photos of each sign. --others (TrashNet, PACS, InfraredSolar,
each cut to 5,000 images) have no recorded groups. The quick pass draws tracks from datasets/fashion.

- with names: the signs get file names as such sets have them (STYLES), and their own; tasks.siblings.name_patterns
  proposes a layout for each. sibling_recall and sibling_name_precision count pairs of images of one sign, worst style
- random names: UUIDs, digests, counters, numbers and dates drawn at random: sibling_false_proposals counts layouts
  that are proposed for them, and for the names of the other sets
- without names: sibling_precision is the share of pairs of tasks.siblings.feature_index that are of one sign

Decoding and features of a set are kept in KEPT; a run that is stopped goes on there. Expected: recall and both
precisions above .9, no false proposal; three CPU minutes for the signs, ten for all.
"""

import argparse
import hashlib
import io
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.label_noise import features
from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, ROOT, say, timed
from tasks.common.files import atomic_path, sha256_bytes
from tasks.common.params import load_params
from tasks.inspection.measure import measure
from tasks.siblings.alike import thumbnail_features
from tasks.siblings.feature_index import fit_whitening, sibling_pairs
from tasks.siblings.name_patterns import group_keys, propose_layout
from tasks.sources.layouts import parse_layout

MOST = 5_000
RESOLUTION = 64
STYLES = {  # {c} class, {t} track within its class, {g} track over all, {f} frame, {d} day, {k} camera
    "class/track_frame": "{c}/{t:05d}_{f:05d}.ppm",
    "class/frame_track": "{c}/{f:05d}-{g:05d}.jpg",
    "class/word+track": "{c}/pole{g:04d}_f{f}.png",
    "class/camera, day, track, frame": "{c}/cam{k}_2024-05-{d:02d}_{g:04d}_{f:04d}.jpg",
    "class/track/frame": "{c}/{g}/{f}.jpg",
    "session/class/frame": "session {g}/{c}/{f}.jpg",
    "flat": "{g:05d}_{f}_{c}.jpg",
}
RANDOM = ("uuid", "digest", "counter", "class and counter", "two numbers", "camera, day, counter")


@dataclass(frozen=True)
class Photos:
    """N images: `paths`, `labels`, `groups` (N,) names ("" where unknown), thumbnails (N, 256), features (N, D)."""

    name: str
    paths: list[str]
    labels: list[str]
    groups: np.ndarray
    thumbnails: np.ndarray
    x: np.ndarray


def read_photos(file: Path, kept: Path, most: int = MOST) -> Photos:
    """The images of `file` with their features, from KEPT if they are there."""
    table = pq.read_table(file)
    if len(table) > most:
        table = table.take(np.sort(np.random.default_rng(0).choice(len(table), most, replace=False)))
    images = [image["bytes"] for image in table["image"].to_pylist()]
    digest = hashlib.sha256("".join(map(sha256_bytes, images)).encode()).hexdigest()[:16]
    stored = kept / f"{file.stem}-{digest}.npz"
    if not stored.is_file():
        thumbnails = np.stack([np.frombuffer(measure(data, 10**8).thumbnail, np.uint8) for data in images])
        params = load_params(ROOT / "params.yaml")
        how = params.images.model_copy(update={"resolution": RESOLUTION})
        x = features(images, params.model_copy(update={"images": how}))
        with atomic_path(stored) as temporary, open(temporary, "wb") as out:
            np.savez(out, thumbnails=thumbnails, x=x)
    with np.load(stored) as arrays:
        thumbnails, x = arrays["thumbnails"], arrays["x"]
    paths = [image["path"] or f"{row}.jpg" for row, image in enumerate(table["image"].to_pylist())]
    groups = np.array(table["pole"].to_pylist() if "pole" in table.column_names else [""] * len(table))
    return Photos(file.stem, paths, table["label"].to_pylist(), groups, thumbnails, x)


def write_tracks(file: Path, objects: int = 80, views: int = 3) -> Path:
    """Parquet like belgium-signs: images of datasets/fashion, each a little shifted and lit `views` times."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    table = pq.read_table(FASHION / "base.parquet", columns=["image", "label"])
    rows = []
    for number in range(0, len(table), len(table) // objects):
        row = table.slice(number, 1).to_pylist()[0]
        grey = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"), np.float32)
        for view in range(views):
            moved = np.roll(grey, rng.integers(-1, 2, 2), axis=(0, 1)) * rng.uniform(0.8, 1)
            buffer = io.BytesIO()
            Image.fromarray(moved.astype(np.uint8)).save(buffer, "PNG")
            label = row["label"].replace("/", " or ")  # a folder's name
            image = {"bytes": buffer.getvalue(), "path": f"{label}/{number:05d}_{view}.png"}
            rows.append({"image": image, "label": label, "pole": str(number)})
    with atomic_path(file) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    return file


def styled_names(photos: Photos) -> dict[str, list[str]]:
    """Style -> file names that hold class, track and frame."""
    rng = np.random.default_rng(0)
    poles, of_pole = np.unique(photos.groups, return_inverse=True)
    number = rng.permutation(len(poles))[of_pole]  # over all classes
    frame: Counter = Counter()
    in_class: dict[str, dict[int, int]] = {}
    names: dict[str, list[str]] = {style: [] for style in STYLES}
    for label, g in zip(photos.labels, number.tolist(), strict=True):
        t = in_class.setdefault(label, {}).setdefault(g, len(in_class.get(label, {})))
        fields = {"c": label, "t": t, "g": g, "f": frame[g], "d": g % 28 + 1, "k": g % 4}
        frame[g] += 1
        for style, written in STYLES.items():
            names[style].append(written.format(**fields))
    return names | {"its own": photos.paths}


def random_names(labels: list[str], seed: int) -> dict[str, list[str]]:
    """Kind (RANDOM) -> file names without structure."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(len(labels)).tolist()
    made: dict[str, list[str]] = {kind: [] for kind in RANDOM}
    for label, n in zip(labels, numbers, strict=True):
        day = f"2024-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
        written = (
            str(uuid.UUID(bytes=rng.bytes(16), version=4)),
            rng.bytes(20).hex(),
            f"IMG_{n:04d}",
            f"{label}{n}",
            f"{rng.integers(0, len(labels) // 3):05d}_{n:05d}",
            f"cam{rng.integers(0, 5)}_{day}_{n:05d}",
        )
        for kind, stem in zip(RANDOM, written, strict=True):
            made[kind].append(f"{label}/{stem}.jpg")
    return made


def pair_scores(keys: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """(recall, precision) of the pairs of images with one key against those of one group; "" means no key."""

    def pairs(counts: Counter) -> int:
        return sum(count * (count - 1) // 2 for count in counts.values())

    keyed = [(key, group) for key, group in zip(keys.tolist(), groups.tolist(), strict=True) if key]
    both, found = pairs(Counter(keyed)), pairs(Counter(key for key, _ in keyed))
    return both / max(pairs(Counter(groups.tolist())), 1), both / found if found else 0.0


def score_names(photos: Photos) -> dict[str, tuple[float, float]]:
    """Style -> (pair recall, pair precision) of the layout proposed for it; (0, 0) for none."""
    looks, scores = thumbnail_features(photos.thumbnails), {}
    for style, names in styled_names(photos).items():
        found = propose_layout(names, photos.labels, looks)
        keys = group_keys(parse_layout(found.template), names) if found else np.full(len(names), "", object)
        scores[style] = pair_scores(keys, photos.groups)
        say(f"  {style}: {found and found.template}, recall {scores[style][0]:.3f}, precision {scores[style][1]:.3f}")
    return scores


def count_false_proposals(sets: list[Photos], seeds: int) -> tuple[int, int]:
    """(layouts proposed, sets of names) for random names, and for the own names of sets without groups."""
    found, tried = 0, 0
    for photos in sets:
        looks = thumbnail_features(photos.thumbnails)
        names = {f"{kind}, {seed}": n for seed in range(seeds) for kind, n in random_names(photos.labels, seed).items()}
        if not photos.groups.astype(bool).any():
            names["its own"] = photos.paths
        for kind, written in names.items():
            proposed = propose_layout(written, photos.labels, looks)
            tried += 1
            found += proposed is not None
            if proposed:
                say(f"  {photos.name}, {kind}: {proposed}")
    return found, tried


def score_features(photos: Photos) -> tuple[float, float, int]:
    """(precision, recall, number) of the pairs found by features alone."""
    pairs = sibling_pairs(fit_whitening(photos.x).apply(photos.x))
    right = int((photos.groups[pairs[:, 0]] == photos.groups[pairs[:, 1]]).sum()) if len(pairs) else 0
    true = sum(count * (count - 1) // 2 for count in Counter(photos.groups.tolist()).values())
    return right / max(len(pairs), 1), right / max(true, 1), len(pairs)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--signs", type=Path)
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    options.kept.mkdir(parents=True, exist_ok=True)
    if options.quick:
        signs = read_photos(write_tracks(options.kept / "tracks.parquet"), options.kept)
    elif options.signs is None:
        parser.error("--signs FILE is needed, except for a quick pass")
    else:
        signs = read_photos(options.signs, options.kept)
    others = [read_photos(file, options.kept) for file in options.others]
    with timed("names"):
        scores = score_names(signs)
    with timed("random names"):
        false, tried = count_false_proposals([signs, *others], 1 if options.quick else 5)
    with timed("features"):
        precision, recall, number = score_features(signs)
    for photos in others:
        pairs = sibling_pairs(fit_whitening(photos.x).apply(photos.x))
        say(f"  {photos.name}: {len(pairs)} pairs by features among {len(photos.paths)} images")
    worst = "worst of " + ", ".join(scores)
    figures = [
        Figure(
            name="sibling_recall",
            value=min(found for found, _ in scores.values()),
            unit="",
            goal=0.9,
            better="higher",
            spread=worst,
        ),
        Figure(
            name="sibling_name_precision",
            value=min(right for _, right in scores.values()),
            unit="",
            goal=0.9,
            better="higher",
            spread=worst,
        ),
        Figure(
            name="sibling_precision",
            value=precision,
            unit="",
            goal=0.9,
            better="higher",
            spread=f"{number} pairs without names, {100 * recall:.0f} % of all pairs of one sign",
        ),
        Figure(
            name="sibling_false_proposals",
            value=false,
            unit="layouts",
            goal=0,
            better="lower",
            spread=f"of {tried} sets of names without structure",
        ),
    ]
    named = " ".join(f"{file.name}" for file in options.others)
    command = "python -m benchmarks.siblings KEPT --signs belgium-signs.parquet" + (
        f" --others {named}" if named else ""
    )
    report("siblings", command, figures, options.quick)


if __name__ == "__main__":
    main()
