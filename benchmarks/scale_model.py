"""What a project of N images costs, from unit costs: a simulation of its growth, and the N at which something breaks.

All times are CPU seconds of one core. A `Line` is a cost of N rows that was measured at two sizes or more. Serial work
is done by one process however many cores there are; parallel work is divided among them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

HOUR = 3600.0
PHOTO = 64_000  # bytes of an image
SHARD = 64 << 20  # bytes of a shard
FEATURES, HALF = 1_280, 2  # pretrained features of an image, bytes of each
STAGES = 9
LISTED = 90  # bytes of a file's entry in DVC's listing of data/


@dataclass(frozen=True)
class Line:
    """fixed + each * n ** power. `fit` takes it from measured costs."""

    fixed: float
    each: float
    power: float = 1.0

    def __call__(self, n: float) -> float:
        return self.fixed + self.each * n**self.power

    @classmethod
    def fit(cls, costs: Mapping[int, float], power: float | None = 1.0) -> "Line":
        """Through the two largest of `costs` (rows -> cost); power None: fitted too, with nothing fixed."""
        (few, less), (many, more) = sorted(costs.items())[-2:]
        if power is None:
            power = math.log(max(more, 1e-6) / max(less, 1e-6)) / math.log(many / few)
            return cls(0.0, more / many**power, power)
        each = max(more - less, 0.0) / (many**power - few**power)
        return cls(max(more - each * many**power, 0.0), each, power)


@dataclass(frozen=True)
class Costs:
    """Unit costs. The lines are of rows in data/; the others of one image."""

    hashing: float  # s per byte, sha256
    decode: float  # s: decode once, measure, shrink to the training size
    features: float  # s: pretrained features
    train: float  # s: one epoch
    noise: float  # s: one pass of the noise model's Gram matrix
    monitor: float  # s per logged answer
    listing: Line  # s: read what is known of each row
    split: Line  # s: what an ingest reads of the data set
    record: Line  # s: store data/ in DVC, nearly all of it known
    workspace: Line  # s: a run's worktree with data/ linked into it
    unchanged: Line  # s: look whether one stage is current
    near: Line  # s: search near-duplicates among all rows
    verify: Line  # s: check one version again
    gc: Line  # s
    metadata: float  # bytes per image on disk
    memory_split: Line  # bytes: of an ingest
    memory_near: Line  # bytes: of the search


@dataclass(frozen=True)
class Prices:
    """US dollars, list prices of AWS in us-east-1; `at` is when they were looked up. Change them to your own."""

    at: str = "2025-06"
    object_month: float = 0.023e-9  # S3 Standard, a byte
    put: float = 0.005e-3
    get: float = 0.0004e-3
    disk_month: float = 0.08e-9  # gp3, a byte
    machine_hour: float = 0.8064  # m7i.4xlarge: Machine


@dataclass(frozen=True)
class Machine:
    """What one process or run may use."""

    cores: int = 16
    memory: float = 64e9
    disk: float = 2e12


@dataclass(frozen=True)
class Life:
    """How a project grows: equal ingests, a retraining after every `every` of them, answers logged per image."""

    ingests: int = 1_000
    every: int = 7
    epochs: int = 10
    folds: int = 5
    answers: float = 1.0


@dataclass
class Spent:
    """Seconds of serial and of parallel work."""

    serial: float = 0.0
    parallel: float = 0.0

    def add(self, other: "Spent") -> None:
        self.serial += other.serial
        self.parallel += other.parallel

    def hours(self, machine: Machine) -> float:
        return (self.serial + self.parallel / machine.cores) / HOUR


@dataclass
class Grown:
    """A project that has grown to `images`, and what that took."""

    images: int
    bytes: float = 0.0
    objects: int = 0  # in DVC's remote
    listing: float = 0.0  # bytes of DVC's listing of data/
    ingest: Spent = field(default_factory=Spent)  # the last one
    retrain: Spent = field(default_factory=Spent)  # the last one
    scratch: Spent = field(default_factory=Spent)  # a first run over everything
    total: Spent = field(default_factory=Spent)


def shards_of(images: float) -> int:
    return math.ceil(images * PHOTO / SHARD)


def ingest(costs: Costs, before: float, new: float) -> Spent:
    """Take `new` images into a project of `before`: the whole data set is looked at, only the new ones are decoded."""
    serial = costs.split(before) + costs.record(before + new) + 3 * costs.hashing * new * PHOTO
    return Spent(serial, new * costs.decode)


def retrain(costs: Costs, life: Life, images: float, new: float) -> Spent:
    """One run over `images`, of which `new` are in no cache yet."""
    serial = costs.workspace(images) + STAGES * costs.unchanged(images)
    serial += 2 * costs.listing(images) + costs.near(images)
    parallel = new * costs.features + images * (life.epochs * costs.train + life.folds * costs.noise)
    return Spent(serial, parallel + life.answers * new * costs.monitor)


def grow(costs: Costs, life: Life, images: int) -> Grown:
    """Simulate every ingest and retraining up to `images`."""
    found, batch, fresh = Grown(images), images / life.ingests, 0.0
    for number in range(life.ingests):
        before, now = number * batch, (number + 1) * batch
        found.ingest = ingest(costs, before, batch)
        found.total.add(found.ingest)
        found.objects += shards_of(batch) + 2  # a manifest, and a listing of DVC
        fresh += batch
        if number % life.every == life.every - 1 or number == life.ingests - 1:
            found.retrain, fresh = retrain(costs, life, now, fresh), 0.0
            found.total.add(found.retrain)
            found.objects += 2 * STAGES
    found.bytes = images * (PHOTO + costs.metadata + FEATURES * HALF)
    found.listing = LISTED * (shards_of(batch) + 1) * life.ingests
    found.scratch = ingest(costs, 0, images)
    found.scratch.add(retrain(costs, life, images, images))
    return found


def money(found: Grown, prices: Prices, machine: Machine) -> dict[str, float]:
    """US dollars: storage a month (objects, and a machine's own copy), the first upload, one retraining, all so far."""
    return {
        "objects a month": found.bytes * prices.object_month,
        "disk a month": found.bytes * prices.disk_month,
        "upload": found.objects * prices.put,
        "a new machine's download in the bucket's region": found.objects * prices.get,
        "a retraining": found.retrain.hours(machine) * prices.machine_hour,
        "from scratch": found.scratch.hours(machine) * prices.machine_hour,
    }


def limits(costs: Costs, life: Life, machine: Machine) -> dict[str, tuple[Callable[[float], float], float]]:
    """What can break: (amount of N images, bound)."""
    batch = 1 / life.ingests
    return {
        "data/ on one machine's disk": (lambda n: n * (PHOTO + costs.metadata + FEATURES * HALF), machine.disk),
        "memory of an ingest": (costs.memory_split, machine.memory),
        "memory of the near-duplicate search": (costs.memory_near, machine.memory),
        "serial part of a retraining, a day": (lambda n: retrain(costs, life, n, 0).serial, 24 * HOUR),
        "near-duplicate search, a day": (costs.near, 24 * HOUR),
        "an ingest, a day": (lambda n: ingest(costs, n, n * batch).hours(machine) * HOUR, 24 * HOUR),
        "training on this machine, a week": (
            lambda n: Spent(0, n * life.epochs * costs.train).hours(machine) * HOUR,
            168 * HOUR,
        ),
        "the run of the noise model, a day": (
            lambda n: Spent(0, n * life.folds * costs.noise).hours(machine) * HOUR,
            24 * HOUR,
        ),
        "verify of one version, a day": (costs.verify, 24 * HOUR),
    }


def breaking_points(costs: Costs, life: Life, machine: Machine) -> list[tuple[str, float]]:
    """(what breaks, number of images from which it does), the first first."""
    found = [(name, _crossing(*limit)) for name, limit in limits(costs, life, machine).items()]
    return sorted(found, key=lambda pair: pair[1])


def _crossing(amount: Callable[[float], float], bound: float) -> float:
    """The least n with amount(n) > bound, by bisection; amount grows with n."""
    low, high = 1.0, 1e13
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if amount(middle) > bound else (middle, high)
    return high


def prediction_errors(costs: Mapping[str, Mapping[int, float]], powers: Mapping[str, float | None]) -> dict[str, float]:
    """Step -> measured over predicted cost of its largest size, predicted from the two before it."""
    found = {}
    for name, measured in costs.items():
        sizes: Sequence[int] = sorted(measured)
        if len(sizes) >= 3:
            line = Line.fit({size: measured[size] for size in sizes[-3:-1]}, powers.get(name, 1.0))
            found[name] = measured[sizes[-1]] / max(line(sizes[-1]), 1e-9)
    return found
