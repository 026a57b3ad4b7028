"""A synthetic project of millions of rows for the metadata benchmarks: real files of every kind, drawn rows.

Shards, manifests and sealed measures are as the project's own functions write them, git and DVC are real. Synthetic are
the rows: ids, hashes and thumbnails are drawn, and an image has 16 bytes instead of some 64 kB. One row in a hundred is
a near-duplicate of the row before. A shard holds ROWS rows, as many as photos of 64 kB fill.

Ten million rows must not take hours. So `write_shard` writes one shard, with what differs between shards uncompressed,
and each further shard is a copy of it with these values replaced: its ids, images, names, groups, hashes, thumbnails.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scratch import ROOT, say
from benchmarks.versions import start
from flows.repo.git import git
from flows.repo.run_inputs import CODE
from tasks.common.files import sha256_bytes
from tasks.common.params import ImagesParams, load_params
from tasks.common.progress import track
from tasks.common.schemas import MEASURES, SLICE, sample_schema
from tasks.common.sealed import sealed_path
from tasks.dataset import shards
from tasks.inspection.measures import _cache_file

ROWS = 1_000  # of a shard
SHARDS = 50  # of a batch
PHOTO = 64_000  # bytes of a typical image, which a row of this project lacks
FAKE = 16  # bytes of a synthetic image
CLASSES, CAMERAS, PER_GROUP = 100, 50, 4
TASK = "multiclass"
MARK, BATCH_MARK = b"~SHARD~~", b"~BATCH~~"  # of a template: replaced by the numbers of the shard and of its batch
_PLAIN = ("id", "key", "image.bytes", "image.path", "group", "batch")  # columns in which shards differ
_ALIKE = ("label", "source", "taken_at", "origin", "split", "picked", "sampling_probability")
_PACKED = dict.fromkeys((*_ALIKE, "slice.list.element.name", "slice.list.element.value"), "zstd")
_PACKED |= dict.fromkeys(_PLAIN, "none")


def build(root: Path, rows: int, seed: int = 0) -> Path:
    """A project at `root` with `rows` rows (a multiple of ROWS) and their measures, not recorded in DVC yet."""
    start(root)
    for name in ("dvc.yaml", ".dvcignore"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    for name in CODE:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / ".gitignore").open("a") as ignored:
        ignored.write("__pycache__/\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "the stages")
    data, images = root / "data", load_params(root / "params.yaml").images
    shards.create_dataset(data, TASK)
    flush, os.fsync = os.fsync, lambda handle: None  # a power cut may lose a benchmark's project
    try:
        _fill(data, rows, seed, images)
    finally:
        os.fsync = flush
    say(f"{rows:,} rows are in {len(list(data.glob('*.parquet'))):,} shards")
    return root


def _fill(data: Path, rows: int, seed: int, images: ImagesParams) -> None:
    template, drawn = Template(data.parent / "template", images), Looks(seed)
    for seq in track(range(1, -(-rows // (ROWS * SHARDS)) + 1), f"writing {rows:,} rows"):
        names = []
        for number in range((seq - 1) * SHARDS, min(seq * SHARDS, -(-rows // ROWS))):
            rng = np.random.default_rng([seed, number])
            names.append(template.write(data, rng, number, seq, *drawn(rng, ROWS)))
        count = len(names) * ROWS
        about = {"kind": "import", "shards": names, "rows": count, "offered": count}
        shards.write_manifest(data, shards.BatchManifest(seq=seq, batch=f"b-{seq:012d}", **about))


class Template:
    """A shard and its measures, whose values are replaced for each shard of the project."""

    def __init__(self, folder: Path, images: ImagesParams):
        rng = np.random.default_rng(0)
        table, (phash, thumbs) = sample_table(rng), Looks(0)(rng, ROWS)
        measures = measured(rng, table["id"], phash, thumbs)
        self.images, self.folder = images, folder
        plain, shards._compression = shards._compression, lambda task, names: _PACKED
        try:
            shard = folder / shards.write_shard(folder, table, TASK)
        finally:
            shards._compression = plain
        packed = {name: "zstd" for name in measures.column_names} | dict.fromkeys(("id", "phash", "thumbnail"), "none")
        pq.write_table(measures, folder / "measures", compression=packed, use_dictionary=["format", "mode", "status"])
        self.shard, self.measures = _Patched(shard.read_bytes()), _Patched((folder / "measures").read_bytes())
        ids = [one.encode() for one in table["id"].to_pylist()]
        self.shard.find("id", ids, shards.ROW_GROUP)
        self.shard.find("image", [one["bytes"] for one in table["image"].to_pylist()], shards.ROW_GROUP)
        self.measures.find("id", ids, ROWS)
        self.measures.find_block("phash", phash.tobytes())
        self.measures.find_block("thumbnail", thumbs.tobytes())
        shutil.rmtree(folder)

    def write(
        self, data: Path, rng: np.random.Generator, number: int, seq: int, phash: np.ndarray, thumbs: np.ndarray
    ) -> str:
        """Write shard `number` of batch `seq` and its measures; returns its name."""
        ids = np.frombuffer(rng.bytes(32 * ROWS).hex().encode(), np.uint8).reshape(ROWS, 64)
        pixels = np.frombuffer(rng.bytes(FAKE * ROWS), np.uint8).reshape(ROWS, FAKE)
        content = self.shard.filled({"id": ids, "image": pixels})
        content = content.replace(MARK, b"%08d" % number).replace(BATCH_MARK, b"%08d" % seq)
        name = f"{sha256_bytes(content)[:24]}.parquet"
        (data / name).write_bytes(content)
        looks = {"id": ids, "phash": phash.view(np.uint8), "thumbnail": thumbs.ravel()}
        with sealed_path(_cache_file(data.parent, name, self.images)) as temporary:
            temporary.write_bytes(self.measures.filled(looks))
        return name


class _Patched:
    """The bytes of a file, and where in it the values lie that are replaced."""

    def __init__(self, content: bytes):
        self.content, self.places = content, {}

    def find(self, name: str, values: list[bytes], at_once: int) -> None:
        """`values` of one length, `at_once` in a page, each behind the four bytes of its length."""
        starts, size = [], len(values[0])
        for first in range(0, len(values), at_once):
            page = values[first : first + at_once]
            start = self.content.index(b"".join(size.to_bytes(4, "little") + value for value in page))
            starts += [start + 4 + number * (size + 4) for number in range(len(page))]
        self.places[name] = np.array(starts)[:, None] + np.arange(size)

    def find_block(self, name: str, value: bytes) -> None:
        """One long value."""
        start = self.content.index(value)
        self.places[name] = slice(start, start + len(value))

    def filled(self, values: dict[str, np.ndarray]) -> bytes:
        """The file with `values`, (rows, bytes) or of one block (bytes,), in place of those of the template."""
        found = np.frombuffer(self.content, np.uint8).copy()
        for name, new in values.items():
            found[self.places[name]] = new
        return found.tobytes()


def sample_table(rng: np.random.Generator) -> pa.Table:
    """ROWS rows of sample_schema: groups of PER_GROUP, three splits, every column that photos would have."""
    row, mark = np.arange(ROWS), MARK.decode()
    paths = pa.array([f"photos/{mark}-{number:04d}.jpg" for number in row])
    group = row // PER_GROUP
    columns = {
        "id": pa.array([rng.bytes(32).hex() for _ in row]),
        "image": pa.StructArray.from_arrays(
            [pa.array([rng.bytes(FAKE) for _ in row], pa.binary()), paths], ["bytes", "path"]
        ),
        "key": pa.array([f"part-{mark}-{number:04d}" for number in row]),
        "label": pa.array([f"class-{number}" for number in rng.integers(0, CLASSES, ROWS)]),
        "source": pa.array([f"camera-{number % CAMERAS}" for number in group]),
        "group": pa.array([f"object-{mark}-{number:04d}" for number in group]),
        "taken_at": pa.array(1_700_000_000_000_000 + row * 1_000_000).cast(pa.timestamp("us", tz="UTC")),
        "origin": pa.repeat("import", ROWS),
        "batch": pa.repeat(f"b-0000{BATCH_MARK.decode()}", ROWS),
        "slice": pa.array([[]] * ROWS, SLICE),
        "split": pa.array([("train", "train", "train", "calibration", "test")[number * 7919 % 5] for number in group]),
        "picked": pa.repeat("representative", ROWS),
        "sampling_probability": pa.nulls(ROWS, pa.float32()),
    }
    schema = sample_schema(TASK)
    return pa.table([columns[name] for name in schema.names], schema=schema)


class Looks:
    """Draws perceptual hashes (count,) uint64 and thumbnails (count, 256) uint8; one in a hundred is a near copy."""

    def __init__(self, seed: int):
        self.noise = np.random.default_rng([seed, 1]).integers(0, 16, (4096, 256), dtype=np.uint8)

    def __call__(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        phash = rng.integers(0, 1 << 64, count, dtype=np.uint64)
        coarse = rng.normal(rng.normal(120, 45, (count, 1, 1)), 40, (count, 4, 4)).clip(16, 239).astype(np.uint8)
        thumbs = coarse.repeat(4, axis=1).repeat(4, axis=2).reshape(count, 256)
        thumbs = thumbs + self.noise[(rng.integers(4096) + np.arange(count)) % 4096]
        near = np.arange(99, count, 100)
        phash[near], thumbs[near] = phash[near - 1] ^ np.uint64(3), thumbs[near - 1] ^ np.uint8(1)
        return phash, thumbs


def measured(rng: np.random.Generator, ids: pa.ChunkedArray, phash: np.ndarray, thumbs: np.ndarray) -> pa.Table:
    """The table that `measures_table` makes of decoded images, drawn instead."""
    count = len(ids)
    columns = {
        "id": ids.combine_chunks(),
        "format": pa.repeat("JPEG", count),
        "mode": pa.repeat("RGB", count),
        "width": pa.array(np.full(count, 1280, np.int32)),
        "height": pa.array(np.full(count, 960, np.int32)),
        "exif_orientation": pa.array(np.ones(count, np.int8)),
        "phash": pa.array(phash),
        "thumbnail": pa.Array.from_buffers(pa.binary(256), count, [None, pa.py_buffer(thumbs.tobytes())]),
        "status": pa.repeat("ok", count),
    }
    columns |= {
        name: pa.array(rng.normal(mean, mean / 4, count).astype(np.float32))
        for name, mean in {"brightness": 120, "contrast": 50, "sharpness": 300, "entropy": 7}.items()
    }
    schema = pa.schema([("id", pa.string()), *MEASURES, ("thumbnail", pa.binary(256)), ("status", pa.string())])
    return pa.table([columns[name] for name in schema.names], schema=schema)
