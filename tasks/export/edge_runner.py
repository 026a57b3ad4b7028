"""Answer images on a device: `python model.pyz PHOTO ... [--capture FOLDER]`, one JSON line an image.

Needs Python 3.11, onnxruntime, numpy and Pillow. In your program: `sys.path.insert(0, "model.pyz")`, then
`from edge import Edge; Edge("model.pyz").answer(photo_bytes)`.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime

from tasks.dataset.decode import PREPROCESS, Undecodable, file_suffix, preprocess
from tasks.inference import coarse, conformal, thresholds
from tasks.inference.ood import scores

FREE = 500 << 20  # bytes that captures leave on the disk


class Edge:
    """The model in `file`. Threads may share it."""

    def __init__(self, file: str | Path, threads: int = 1):
        with zipfile.ZipFile(file) as inside:
            self.about = json.loads(inside.read("model.json"))
            with np.load(io.BytesIO(inside.read("ood.npz")), allow_pickle=False) as tensors:
                self.tensors = dict(tensors)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self.session = onnxruntime.InferenceSession(inside.read("model.onnx"), options)
        self.rule = thresholds.read_rule(self.about)

    def answer(self, image: bytes) -> dict:
        """The answer for one encoded image; only `reason` and `detail` if it cannot be read."""
        try:
            pixels = preprocess(image, *(self.about["preprocess"].get(key) for key in PREPROCESS))
        except Undecodable as error:
            return {"reason": error.reason, "detail": error.detail}
        logits, p, features = self.session.run(["logits", "probabilities", "features"], {"images": pixels[None]})
        score = float(scores.score(features, logits, self.about["ood"], self.tensors)[0])
        chosen, unfamiliar = thresholds.answers(p, self.rule)[0], score > self.about["ood"]["threshold"]
        names, sure = self.about["classes"], thresholds.sure(p, self.rule)
        groups = self.about["hierarchy"] or {"groups": {}, "threshold": 1.0}
        parents = coarse.answers(p, sure, groups["groups"], names, groups["threshold"])
        single = self.rule.task == "multiclass"
        return {
            "label": names[chosen] if single else [names[k] for k in np.flatnonzero(chosen)],
            "coarse": None if unfamiliar else parents[0],
            "plausible": self._plausible(p, chosen),
            "confidence": float(thresholds.confidence(p, self.rule)[0]),
            "probabilities": [float(value) for value in p[0]],
            "is_ood": bool(unfamiliar),
            "needs_review": bool(unfamiliar or not sure[0]),
            "version": self.about["version"],
        }

    def _plausible(self, p: np.ndarray, chosen: np.ndarray) -> list[str] | None:
        """Classes that may be right, likeliest first; None: the model has no such sets."""
        if not (sets := self.about["conformal"]):
            return None
        bounds = np.array([sets["bounds"][name] for name in self.about["classes"]])
        there = conformal.plausible(p, np.array([chosen]), bounds)[0]
        return list(conformal.likeliest_first(self.about["classes"], p[0], there))

    def capture(self, folder: str | Path, image: bytes, said: dict, source: str | None = None, key: str | None = None):
        """Keep image and answer for `evergreen collect`: two new files, never changed, so the folder can be synced.

        Raises OSError, also where less than FREE bytes would stay free.
        """
        at, digest = datetime.now(UTC), hashlib.sha256(image).hexdigest()
        name = f"{at:%Y-%m-%d}/{at:%H%M%S%f}-{digest[:16]}"
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < FREE + len(image):
            raise OSError(f"less than {FREE >> 20} MB are free in {folder}: the answer was not captured")
        about = {"schema": 1, "at": at.isoformat(), "sha256": digest, "source": source, "key": key, "answer": said}
        about |= {"image": f"{Path(name).name}{file_suffix(image)}", "bundle": self.about["bundle"]}
        day = Path(folder, name).parent
        for path, content in (
            (day / about["image"], image),
            (Path(folder, f"{name}.json"), json.dumps(about).encode()),
        ):
            temporary = path.with_suffix(".part")
            temporary.write_bytes(content)
            os.replace(temporary, path)  # the JSON last: it says that the image is whole


def main() -> int:
    """Answer the images that the command line names; 1 if one could not be read or captured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--capture", type=Path, help="folder for images and answers, for `evergreen collect`")
    parser.add_argument("--source", help="camera or site, kept with the captures")
    given, failed = parser.parse_args(), 0
    edge = Edge(Path(sys.argv[0]))
    for path in given.images:
        try:
            image = path.read_bytes()
            said = edge.answer(image)
        except OSError as error:
            image, said = None, {"reason": "unreadable", "detail": str(error)}
        failed |= "reason" in said
        print(json.dumps({"path": str(path)} | said), flush=True)
        try:
            if given.capture and image is not None:
                edge.capture(given.capture, image, said, given.source)
        except OSError as error:  # the answer counts more than its record
            failed = 1
            print(error, file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
