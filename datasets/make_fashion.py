"""Make `datasets/fashion/`: a small, long-tailed, noisy, drifting image data set from Fashion-MNIST.

    python datasets/make_fashion.py [SOURCE] [OUT]

SOURCE holds the four idx.gz files of Fashion-MNIST (default: where Debian's package `dataset-fashion-mnist` installs
them). OUT defaults to the folder `fashion` next to this script. With the locked Pillow and pyarrow, the same SOURCE
gives the same bytes. It takes about 10 s and prints a table of files, rows and bytes (under 4 MB in all).

Every file is a manifest in Hugging Face's image layout: image {bytes, path}, label, split, source, taken_at,
slice_lighting. `truth.parquet` {id, label} holds the true label of every image of every file. Benchmarks and tests use
it for scoring; nothing in the pipeline may read it.

| file | rows |
|---|---|
| base         | train: 50:1 long tail, 8 % of each given class mislabelled; calibration and test: clean, balanced |
| batch-2      | the next training batch: same cameras, same noise, more of the rare classes |
| sabotaged    | a clean training batch in which every label of one frequent class is flipped |
| hard         | the hard set: clean images from the test part, of which a linear classifier on pixels is unsure |
| production-1 | traffic without labels, camera and mix as in base's calibration and test images |
| production-2, production-3 | traffic without labels from a changed camera; in production-3 the mix changes too |
| production-4 | later traffic from the changed camera, with the mix of production-2 and production-3 together |
"""

import gzip
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

SOURCE = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# frequent to rare; rare classes resemble frequent ones (Coat: Pullover; Sandal: Sneaker), as in real tails
TAIL = ("Trouser", "T-shirt/top", "Sneaker", "Pullover", "Dress", "Bag", "Shirt", "Coat", "Ankle boot", "Sandal")
CONFUSABLE = {  # given label -> true classes that an annotator confuses with it
    "T-shirt/top": ("Shirt", "Dress", "Pullover"),
    "Trouser": ("Dress", "Pullover", "T-shirt/top"),
    "Pullover": ("Coat", "Shirt", "T-shirt/top"),
    "Dress": ("T-shirt/top", "Coat", "Trouser"),
    "Coat": ("Pullover", "Shirt", "Dress"),
    "Sandal": ("Sneaker", "Ankle boot", "Bag"),
    "Shirt": ("T-shirt/top", "Pullover", "Coat"),
    "Sneaker": ("Sandal", "Ankle boot", "Bag"),
    "Bag": ("Shirt", "Pullover", "Sandal"),
    "Ankle boot": ("Sneaker", "Sandal"),
}
HEAD, IMBALANCE, NOISE = 1000, 50.0, 0.08
CALIBRATION, TEST, HARD = 50, 150, 18  # images per class
BATCH, SABOTAGED, WINDOW = 1700, 250, 250  # images per file
CAMPAIGN = 0.65  # share of batch-2 drawn evenly over classes (to collect rare ones); the rest has the mix of base
FLIPPED, FLIPPED_TO = "Sneaker", "Bag"  # neighbours in CLASSES: an index off by one
MIN_DIFFERENCE = 6.0  # of any two images' 14 x 14 means, mean absolute (of 255): excludes near-duplicates

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"dtype": "string", "_type": "Value"},
    "split": {"dtype": "string", "_type": "Value"},
    "source": {"dtype": "string", "_type": "Value"},
    "taken_at": {"dtype": "timestamp[us, tz=UTC]", "_type": "Value"},
    "slice_lighting": {"dtype": "string", "_type": "Value"},
}
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("taken_at", pa.timestamp("us", tz="UTC")),
        ("slice_lighting", pa.string()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)


@dataclass
class Rows:
    """The rows of one file, as parallel lists; `true` is written only to truth.parquet."""

    pixels: list[np.ndarray]
    path: list[str]
    true: list[str]
    given: list[str | None]
    split: list[str | None]

    def __add__(self, other: "Rows") -> "Rows":
        return Rows(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


class Pool:
    """Images of one part ("train", "t10k") of Fashion-MNIST, drawn by class, each at most once."""

    def __init__(self, source: Path, part: str):
        self.part = part
        self.images = _idx(source / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        self.labels = _idx(source / f"{part}-labels-idx1-ubyte.gz", 8)
        self._waiting = [iter(self._order(number)) for number in range(len(CLASSES))]

    def _order(self, number: int) -> np.ndarray:
        of_class = np.flatnonzero(self.labels == number)
        return of_class[shuffled(f"{self.part}/{number}", len(of_class))]

    def deal(self, counts: dict[str, int], distinct: "Distinct") -> Iterator[tuple[int, str]]:
        """Yield (index, true class) of `counts[class]` images per class, none similar to an earlier one."""
        for name, count in counts.items():
            waiting = self._waiting[CLASSES.index(name)]
            while count:
                index = int(next(waiting))
                if distinct.add(self.images[index]):
                    count -= 1
                    yield index, name

    def rows(self, dealt: Iterable[tuple[int, str]], split: str | None, given: str | None = None) -> Rows:
        """Clean rows; `given` overrides the label."""
        dealt = list(dealt)
        return Rows(
            [self.images[index] for index, _ in dealt],
            [f"{self.part}-{index:05d}.png" for index, _ in dealt],
            [name for _, name in dealt],
            [given or name for _, name in dealt],
            [split] * len(dealt),
        )


class Distinct:
    """Stores the images taken so far and refuses an image that is nearly the same as one of them."""

    def __init__(self) -> None:
        self._coarse = np.empty((0, 49), np.float32)  # 7 x 7 means: never further apart than the 14 x 14 means
        self._fine = np.empty((0, 196), np.float32)
        self._count = 0

    def add(self, image: np.ndarray) -> bool:
        coarse = image.reshape(7, 4, 7, 4).mean((1, 3)).ravel()
        fine = image.reshape(14, 2, 14, 2).mean((1, 3)).ravel()
        near = np.flatnonzero(np.abs(self._coarse[: self._count] - coarse).mean(1) < MIN_DIFFERENCE)
        if (np.abs(self._fine[near] - fine).mean(1) < MIN_DIFFERENCE).any():
            return False
        if self._count == len(self._coarse):
            self._coarse = np.vstack([self._coarse, np.empty((4096, 49), np.float32)])
            self._fine = np.vstack([self._fine, np.empty((4096, 196), np.float32)])
        self._coarse[self._count], self._fine[self._count] = coarse, fine
        self._count += 1
        return True


def _idx(file: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


def raw(tag: str, n: int) -> np.ndarray:
    """(n,) uint64 random words that depend only on `tag` (PCG64's raw stream is stable across numpy versions)."""
    seed = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big")
    return np.random.PCG64(seed).random_raw(n)


def shuffled(tag: str, n: int) -> np.ndarray:
    return np.argsort(raw(tag, n), kind="stable")


def uniform(tag: str, n: int) -> np.ndarray:
    return raw(tag, n) / 2.0**64


def apportion(shares: dict[str, float], total: int) -> dict[str, int]:
    """Integer counts that sum to `total` in proportion to `shares` (largest remainder method)."""
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in rest[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def long_tail() -> dict[str, int]:
    """Given label -> number of training images: exponential from HEAD down to HEAD / IMBALANCE."""
    last = len(TAIL) - 1
    return {name: round(HEAD * IMBALANCE ** (-rank / last)) for rank, name in enumerate(TAIL)}


def noisy(pool: Pool, counts: dict[str, int], distinct: Distinct) -> Rows:
    """Training rows with `counts` *given* labels per class, of which the share NOISE is wrong.

    The noise is proportional per given class: noise that is uniform over true classes would make most labels of the
    rarest class wrong. The true classes behind wrong labels follow their frequencies.
    """
    rows = Rows([], [], [], [], [])
    for given, count in counts.items():
        wrong = round(NOISE * count)
        hidden = apportion({name: counts[name] for name in CONFUSABLE[given]}, wrong)
        rows += pool.rows(pool.deal({given: count - wrong}, distinct), "train")
        rows += pool.rows(pool.deal(hidden, distinct), "train", given)
    return rows


def hard(train: Rows, pool: Pool, distinct: Distinct) -> Rows:
    """HARD test images per class whose true and best other score differ least in a ridge regression on pixels."""
    x = np.stack(train.pixels).reshape(len(train.true), -1) / 255.0
    y = np.array([CLASSES.index(name) for name in train.true])
    weight = 1.0 / np.bincount(y, minlength=len(CLASSES))[y]
    x = np.hstack([x, np.ones((len(x), 1))])
    gram = x.T @ (weight[:, None] * x) + 0.01 * np.eye(x.shape[1])
    solution = np.linalg.solve(gram, x.T @ (weight[:, None] * np.eye(len(CLASSES))[y]))
    rows = Rows([], [], [], [], [])
    for number, name in enumerate(CLASSES):
        indices = [index for index, _ in pool.deal({name: 8 * HARD}, distinct)]
        scores = np.hstack([pool.images[indices].reshape(len(indices), -1) / 255.0, np.ones((len(indices), 1))])
        scores = scores @ solution
        margin = scores[:, number] - np.delete(scores, number, axis=1).max(axis=1)
        unsure = np.argsort(np.abs(margin), kind="stable")[:HARD]
        rows += pool.rows([(indices[i], name) for i in sorted(unsure)], "hard")
    return rows


def production(pool: Pool, mix: dict[str, float], distinct: Distinct, changed: bool, tag: str) -> Rows:
    """A window of unlabelled traffic; `changed`: from a darker, blurred camera that is mounted on its side."""
    rows = pool.rows(pool.deal(apportion(mix, WINDOW), distinct), None)
    rows.given = [None] * len(rows.given)
    if changed:
        angles = 80 + 20 * uniform(f"{tag}/angle", len(rows.pixels))
        rows.pixels = [other_camera(image, angle) for image, angle in zip(rows.pixels, angles, strict=True)]
    return rows


def other_camera(pixels: np.ndarray, degrees: float) -> np.ndarray:
    image = Image.fromarray(pixels).rotate(float(degrees), Image.Resampling.BILINEAR, translate=(2, 1))
    image = image.filter(ImageFilter.GaussianBlur(0.8))
    return (40 + np.asarray(image, np.float32) * 0.45).astype(np.uint8)


def lighting(pixels: np.ndarray) -> str:
    """Brightness of the object itself: that of the whole image would only follow the area of the class."""
    inside = pixels[pixels > 16]
    return "bright" if inside.size and inside.mean() >= 150 else "dim"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sources(name: str, splits: list[str | None], sites: dict[str | None, range]) -> list[str]:
    """A camera for every row: sites have uneven sizes, and each site serves one split."""
    draws = uniform(f"{name}/source", len(splits)) ** 1.5  # more rows at the first sites
    cameras = {split: [f"site-{s:02d}/cam-{c}" for s in span for c in (1, 2)] for split, span in sites.items()}
    return [cameras[s][int(u * len(cameras[s]))] for s, u in zip(splits, draws, strict=True)]


def table(name: str, rows: Rows, sites: dict[str | None, range], first_day: str, days: int) -> tuple[pa.Table, list]:
    """(manifest in order of time, [(id, true label)] in the same order)."""
    n = len(rows.true)
    offsets = (uniform(f"{name}/time", n) * days * 86400).astype(np.int64)
    at = np.datetime64(first_day, "us") + offsets * np.timedelta64(1_000_000, "us")
    source = sources(name, rows.split, sites)
    order = np.argsort(offsets, kind="stable")
    content = [png(rows.pixels[i]) for i in order]
    made = pa.table(
        {
            "image": [{"bytes": data, "path": rows.path[i]} for data, i in zip(content, order, strict=True)],
            "label": [rows.given[i] for i in order],
            "split": [rows.split[i] for i in order],
            "source": [source[i] for i in order],
            "taken_at": pa.array(at[order]).cast(pa.timestamp("us", tz="UTC")),
            "slice_lighting": [lighting(rows.pixels[i]) for i in order],
        },
        schema=SCHEMA,
    )
    truth = [(hashlib.sha256(data).hexdigest(), rows.true[i]) for data, i in zip(content, order, strict=True)]
    return made, truth


def write(table: pa.Table, file: Path) -> None:
    text = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type) and name != "id"]
    temporary = file.with_name(f".{file.name}.tmp")
    pq.write_table(table, temporary, compression="zstd", compression_level=19, use_dictionary=text, row_group_size=512)
    temporary.replace(file)


def make(source: Path = SOURCE, out: Path = Path(__file__).parent / "fashion") -> dict[str, int]:
    """Write every file into `out`; returns file name -> rows."""
    out.mkdir(parents=True, exist_ok=True)
    train, test, distinct = Pool(source, "train"), Pool(source, "t10k"), Distinct()
    base = long_tail()
    even = dict.fromkeys(CLASSES, 1.0)
    campaign = {
        name: (1 - CAMPAIGN) * count / sum(base.values()) + CAMPAIGN / len(base) for name, count in base.items()
    }
    reversed_mix = {name: base[other] for name, other in zip(TAIL, reversed(TAIL), strict=True)}

    training = noisy(train, base, distinct)
    calibration = train.rows(train.deal(dict.fromkeys(CLASSES, CALIBRATION), distinct), "calibration")
    testing = test.rows(test.deal(dict.fromkeys(CLASSES, TEST), distinct), "test")
    sabotaged = train.rows(train.deal(apportion(base, SABOTAGED), distinct), "train")
    sabotaged.given = [FLIPPED_TO if name == FLIPPED else name for name in sabotaged.given]
    changed = {name: 0.5 * even[name] / len(even) + 0.5 * reversed_mix[name] / sum(base.values()) for name in base}
    later = {name: (even[name] / len(even) + changed[name]) / 2 for name in base}
    files = {  # name: (rows, sites per split, first day, days)
        "base": (
            training + calibration + testing,
            {"train": range(1, 13), "calibration": range(13, 16), "test": range(16, 21)},
            "2025-01-06",
            56,
        ),
        "batch-2": (noisy(train, apportion(campaign, BATCH), distinct), {"train": range(1, 13)}, "2025-03-03", 14),
        "sabotaged": (sabotaged, {"train": range(1, 5)}, "2025-03-17", 7),
        "hard": (hard(training, test, distinct), {"hard": range(30, 31)}, "2025-02-03", 14),
        "production-1": (production(train, even, distinct, False, "1"), {None: range(31, 41)}, "2025-04-07", 7),
        "production-2": (production(train, even, distinct, True, "2"), {None: range(41, 51)}, "2025-05-05", 7),
        "production-3": (production(train, changed, distinct, True, "3"), {None: range(41, 51)}, "2025-06-02", 7),
        "production-4": (production(train, later, distinct, True, "4"), {None: range(41, 51)}, "2025-07-07", 7),
    }
    truth: list[tuple[str, str]] = []
    for name, (rows, sites, day, days) in files.items():
        made, known = table(name, rows, sites, day, days)
        write(made, out / f"{name}.parquet")
        truth += known
    ids, labels = zip(*truth, strict=True)
    write(pa.table({"id": ids, "label": labels}), out / "truth.parquet")
    return {name: len(rows.true) for name, (rows, *_) in files.items()}


def main() -> None:
    arguments = [Path(argument) for argument in sys.argv[1:]]
    out = arguments[1] if len(arguments) > 1 else Path(__file__).parent / "fashion"
    made = make(arguments[0] if arguments else SOURCE, out)
    for name, rows in made.items():
        print(f"{name:13} {rows:6,} rows {(out / f'{name}.parquet').stat().st_size:10,} bytes")
    print(
        f"{'in all':13} {sum(made.values()):6,} rows {sum(f.stat().st_size for f in out.glob('*.parquet')):10,} bytes"
    )


if __name__ == "__main__":
    main()
