"""Does the HTTP service answer as `evaluate` measures, and does it refuse what is hostile?

    python -m benchmarks.serve_parity [BUNDLE] [--quick]

1,000 odd but valid images (EXIF, CMYK, 16 bit, palettes, progressive, ...) go through the service from eight clients at
once, so that they meet in batches. Their probabilities are compared with those of the exported model on the pixels that
training and evaluation use, in batches of 64. Then 300 hostile requests: malformed envelopes, and images that no
decoder takes. Each must get a 4xx with a reason from the closed list and a sentence; malformed images that a decoder
does take are left out of the 300. BUNDLE: a bundle's folder; by default a small model is trained.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import httpx
import numpy as np

from benchmarks.odd_image_makers import KINDS, ODD
from benchmarks.odd_images import made
from benchmarks.record import Figure, report
from serving.live import Model
from serving.predictor import Predictor
from serving.service.app import create_app
from serving.service.pixels import spec_of
from serving.service.problems import CONTENT_TYPE, STATUS
from serving.service.settings import Settings
from tasks.dataset.decode import Undecodable, preprocess
from tasks.inference.onnx_model import OnnxModel
from tests.support.hostile_requests import HOSTILE, Hostile
from tests.support.service import Kept, OneModel, served
from tests.support.small_project import finished_project

CLIENTS = 8
LIMITS = Settings(max_images=4, max_bytes=200_000, max_request_bytes=1_000_000)  # what HOSTILE goes beyond


def parity(model: Model, images: list[bytes]) -> float:
    """The largest difference of a probability."""
    classes = model.predictor.classes
    pixels = np.stack([preprocess(image, *spec_of(model)) for image in images])
    expected = OnnxModel(model.predictor.folder / "model.onnx")(pixels).probabilities

    def ask(image: bytes) -> list[float]:
        sent = client.post(f"/predict?top={len(classes)}", content=image)
        found = {one["label"]: one["probability"] for one in sent.raise_for_status().json()["top"]}
        return [found[name] for name in classes]

    app = create_app(OneModel(model), Kept(), Settings(cache_bytes=0, deadline_seconds=600))
    with served(app) as client, ThreadPoolExecutor(CLIENTS) as pool:
        return float(np.abs(np.array(list(pool.map(ask, images))) - expected).max())


def hostile(model: Model, seed: int) -> Iterator[Hostile]:
    """All envelopes, then malformed images without end."""
    yield from HOSTILE.values()
    for number in count():
        for _, image in made(KINDS, len(KINDS), seed + number):
            try:
                preprocess(image, *spec_of(model))
            except Undecodable as error:
                if len(image) <= LIMITS.max_bytes:
                    yield Hostile(STATUS[error.reason], error.reason, image)
            except Exception:
                yield Hostile(STATUS["undecodable"], "undecodable", image)


def refused(client: httpx.Client, one: Hostile) -> bool:
    """Does this request get its status, its reason and a sentence?"""
    try:
        sent = client.post("/predict" + one.query, content=one.body, headers=one.headers)
        said = sent.json()
    except (httpx.HTTPError, ValueError) as error:
        print(f"{one.reason}: {error!r}")
        return False
    right = 400 <= sent.status_code < 500 and (sent.status_code, said["reason"]) == (one.status, one.reason)
    if not right:
        print(f"expected {one.status} {one.reason}, found {sent.status_code} {said}")
    return right and sent.headers["content-type"] == CONTENT_TYPE and bool(said["detail"])


def run(bundle: Path, quick: bool) -> list[Figure]:
    model = Model(Predictor(bundle), "v0.1.0")
    images = [data for _, data in made(ODD, len(ODD) if quick else 1000, 2)]
    difference = parity(model, images)
    requests = list(islice(hostile(model, 1), 40 if quick else 300))
    with served(create_app(OneModel(model), Kept(), LIMITS)) as client:
        wrong = sum(not refused(client, one) for one in requests)
        wrong += client.post("/predict", content=images[0]).status_code != 200  # it still answers
    peer = "the exported model, in batches of 64"
    return [
        Figure(
            name="serve_parity_max",
            value=difference,
            unit="probability",
            goal=1e-4,
            better="lower",
            peer=peer,
            spread=f"{len(images)} odd images of {len(ODD)} kinds",
        ),
        Figure(
            name="serve_hostile_unclear",
            value=wrong,
            unit=f"of {len(requests)} requests",
            goal=0,
            better="lower",
            spread=f"{len(HOSTILE)} envelopes, else images of {len(KINDS)} malformed kinds",
        ),
    ]


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    given = [one for one in arguments if not one.startswith("--")]
    bundle = Path(given[0]) if given else finished_project() / "artifacts/bundle"
    report("serve_parity", "python -m benchmarks.serve_parity", run(bundle, quick), quick)


if __name__ == "__main__":
    main(sys.argv[1:])
