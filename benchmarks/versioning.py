"""What does it cost to version and to restore 50,000 images, as shards and as single files?

    python -m benchmarks.versioning [--images N] [--peer-images N] [--quick]

The same images (28 x 28 PNG, all different) are in data/ as ingest writes them (shards, a batch manifest) and, for the
peer, as files in a folder. Versioning is `dvc add` and the push: ours then reads back and hashes the remote's objects,
the peer's is plain `dvc push`. Restoring is `dvc pull` with the cache and the files deleted. Both run in one process on
one machine through DVC's own API, taking turns. Making the images and the ingest are not timed.

`publish_vs_dvc_ratio` and `restore_vs_dvc_ratio` are the peer's wall time over ours. With --peer-images the peer gets
fewer images and its time is scaled by the number of images (DVC's cost is per file); the ratio of both at that number
is recorded too. Expected: at least 20 each.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Figure, report
from benchmarks.scratch import say, timed
from benchmarks.versions import add_batch, opened, start
from flows.repo.pipeline import record_data
from flows.repo.push import dvc_push
from tasks.ingest.writing import SHARD_ROWS

IMAGES = 50_000


def images(count: int, seed: int = 0) -> list[bytes]:
    """`count` different small PNGs."""
    rng, found = np.random.default_rng(seed), []
    for pixels in rng.integers(0, 256, (count, 28, 28), dtype=np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        found.append(buffer.getvalue())
    return found


def ours(root: Path, encoded: list[bytes]) -> dict[str, float]:
    """Seconds to version and to restore `encoded` as shards."""
    start(root)
    rows = [(data, ("cat", "dog")[place % 2], "train") for place, data in enumerate(encoded)]
    add_batch(root, 1, [rows[at : at + SHARD_ROWS] for at in range(0, len(rows), SHARD_ROWS)])
    with timed(f"ours: publish {len(encoded)}") as publish:
        record_data(root)
        dvc_push(root)
    return {"publish": publish.wall, "restore": restored(root, "data")}


def peer(root: Path, encoded: list[bytes]) -> dict[str, float]:
    """Seconds of plain DVC over the same images as files."""
    start(root)
    for place, data in enumerate(encoded):
        file = root / "images" / f"{place % 100:02d}" / f"{place:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    with timed(f"peer: publish {len(encoded)}") as publish, opened(root) as repo:
        repo.add(str(root / "images"))
        repo.push(targets=[str(root / "images.dvc")])
    return {"publish": publish.wall, "restore": restored(root, "images")}


def restored(root: Path, name: str) -> float:
    """Seconds to restore folder `name` when both it and the cache are deleted."""
    files = sorted(file for file in (root / name).rglob("*") if file.is_file())
    before = [file.read_bytes() for file in files[-20:]]
    for gone in (root / name, root / ".dvc/cache", root / ".dvc/tmp"):
        shutil.rmtree(gone, ignore_errors=True)
    with timed(f"restore {name}") as clock, opened(root) as repo:
        repo.pull(targets=[str(root / f"{name}.dvc")])
    assert sorted(file for file in (root / name).rglob("*") if file.is_file()) == files
    assert [file.read_bytes() for file in files[-20:]] == before
    return clock.wall


def figures_of(
    large: dict[str, float], plain: dict[str, float], small: dict[str, float], count: int, plain_count: int
) -> list[Figure]:
    """Figures of three results: `large` and `small` are ours, `plain` is the peer.

    `large` has `count` images, `plain` has `plain_count`, `small` as many as `plain`.
    """
    scale = count / plain_count
    scaled = f", the peer's time is of {plain_count} scaled by {scale:g}" if scale != 1 else ""
    figures = []
    for what in ("publish", "restore"):
        spread = f"{count} images: ours {large[what]:.2f} s, peer {plain[what] * scale:.1f} s{scaled}"
        peer_name = f"dvc {'add + push' if what == 'publish' else 'pull'} of the files"
        value = plain[what] * scale / large[what]
        about = {"unit": "x", "better": "higher", "peer": peer_name}
        figures.append(Figure(name=f"{what}_vs_dvc_ratio", value=value, goal=20, spread=spread, **about))
        if scale != 1:
            spread = f"{plain_count} images each: ours {small[what]:.2f} s, peer {plain[what]:.1f} s"
            name = f"{what}_vs_dvc_ratio_at_{plain_count}"
            figures.append(Figure(name=name, value=plain[what] / small[what], goal=None, spread=spread, **about))
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few hundred images; checks the script")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--peer-images", type=int, default=None, help="default: as many")
    options = parser.parse_args(arguments)
    count = 300 if options.quick else options.images
    plain_count = min(count, 200 if options.quick else options.peer_images or count)
    say(f"making {count} images")
    encoded = images(count)
    with tempfile.TemporaryDirectory(prefix="evergreen-") as scratch:
        small = ours(Path(scratch) / "first", encoded[:plain_count])
        plain = peer(Path(scratch) / "peer", encoded[:plain_count])
        large = ours(Path(scratch) / "ours", encoded)
        if plain_count == count:  # the same measurement twice, before and after the peer: the slower one counts
            large = {what: max(large[what], small[what]) for what in large}
    command = "python -m benchmarks.versioning" + (f" --peer-images {plain_count}" if plain_count != count else "")
    report("versioning", command, figures_of(large, plain, small, count, plain_count), options.quick)


if __name__ == "__main__":
    main()
