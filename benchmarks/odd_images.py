"""Do malformed images stay one quarantined row each, and are odd but valid ones taken?

    python -m benchmarks.odd_images [--quick]

1. `malformed_uncaught`: 1,000 malformed images of 40 kinds (cut, flipped, wrong sizes, bombs, other files) through the
   sandbox of ingest, each child within 1 GiB. An image counts if anything is raised, if it has no result, or if the
   good image after it fails; a child over 1 GiB counts as well.
2. `valid_refused_rate`: 5,000 odd but valid images (modes, depths, profiles, EXIF, compressions, shapes, animations).
   The share that is refused.

All images are made here from a seed; nothing is stored.
Expected: 0 and 0; about 4 minutes on 2 cores.
"""

import argparse
import resource
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np

from benchmarks.odd_image_makers import KINDS, ODD, Maker, good
from benchmarks.record import Figure, report
from tasks.dataset.decode import Undecodable, preprocess
from tasks.inspection.measure import measure
from tasks.inspection.sandbox import Crashed, sandboxed_map

COMMAND = "python -m benchmarks.odd_images"
MALFORMED, VALID = 1000, 5000
MEMORY = 1 << 30  # bytes that an image may add to a child's address space, and of the child's peak
MAX_PIXELS = 50_000_000


def made(kinds: dict[str, Maker], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(kind, image) of `count` images, the kinds in turn."""
    names = list(kinds)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name = names[number % len(names)]
        yield name, kinds[name](rng)


def malformed(count: int, seed: int) -> tuple[int, Counter[str], int]:
    """(how many were not caught, how often each result came, peak bytes of a child).

    The good image after each of them must be measured.
    """
    images = list(made(KINDS, count, seed))
    between = good(np.random.default_rng(seed), "PNG")
    items = [data for _, image in images for data in (image, between)]
    found = [
        ("decoder_crashed", 0) if isinstance(one, Crashed) else one
        for one in sandboxed_map(outcome, items, workers=1, memory=MEMORY)
    ]
    outcomes = Counter(result for result, _ in found[::2])
    uncaught = len(items) - len(found) + outcomes["raised"] + sum(result != "taken" for result, _ in found[1::2])
    return uncaught, outcomes, max(peak for _, peak in found)


def outcome(data: bytes) -> tuple[str, int]:
    """("taken" or why not, peak bytes of this process), after what ingest measures and the input of a model."""
    try:
        measure(data, MAX_PIXELS)
        taken = preprocess(data, 32, "squash", MAX_PIXELS).shape == (32, 32, 3)
        result = "taken" if taken else "raised"
    except Undecodable as error:
        result = error.reason
    except MemoryError:
        result = "decoder_crashed"
    except Exception:
        result = "raised"
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(count: int, seed: int) -> Counter[str]:
    """Kind and reason of the valid images that are refused."""
    found: Counter[str] = Counter()
    for name, image in made(ODD, count, seed):
        try:
            measure(image, MAX_PIXELS)
            preprocess(image, 32, "squash", MAX_PIXELS)
        except Undecodable as error:
            found[f"{name}: {error}"] += 1
    return found


def run(quick: bool) -> list[Figure]:
    """Both figures; says what was refused and why."""
    bad, odd = (2 * len(KINDS), 2 * len(ODD)) if quick else (MALFORMED, VALID)
    uncaught, outcomes, peak = malformed(bad, 1)
    turned_away = refused(odd, 2)
    for name, count in turned_away.most_common(10):
        print(f"{count} refused: {name}")
    print(f"{len(KINDS)} kinds of malformed images: {dict(outcomes.most_common())}; peak {peak / 1e6:.0f} MB")
    uncaught += peak > MEMORY
    rate = sum(turned_away.values()) / odd
    return [
        Figure(name="malformed_uncaught", value=uncaught, unit=f"of {bad} images", goal=0, better="lower"),
        Figure(name="valid_refused_rate", value=rate, unit=f"of {odd} images", goal=0.001, better="lower"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two of each kind; not recorded")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")  # Pillow says what it finds strange
    report("odd_images", COMMAND, run(quick), quick)


if __name__ == "__main__":
    main()
