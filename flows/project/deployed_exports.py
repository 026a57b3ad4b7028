"""Open the export of another tool for `evergreen adopt`: unpack and recognise it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.project.unpack import Limits, unpack
from tasks.adopt.deployed import Deployed
from tasks.adopt.exports.facts import deployed
from tasks.adopt.exports.recognise import from_transformers, recognise

MOST = Limits(bytes=8 << 30)  # weights and a data set


@contextmanager
def opened_export(path: Path, said: dict[str, Any], fit: str, say=print) -> Iterator[Deployed]:
    """The model of `path`: a file, a folder, or a ZIP of one. What the user `said` goes before what the export says.

    said: fields of Facts; None counts as not said. fit: where nothing else says it. Files that this makes are deleted
    at the end. Raises EvergreenError.
    """
    with tempfile.TemporaryDirectory(prefix="evergreen-adopt-") as scratch:
        if path.suffix.lower() == ".zip" and path.is_file():
            unpack(path, Path(scratch) / "export", MOST)
            path = Path(scratch) / "export"
        found = recognise(path)
        facts = replace(found, **{name: value for name, value in said.items() if value is not None})
        model = deployed(facts, fit)
        if found.form:
            say(f"  {found.form}: {_described(model)}")
        for note in facts.notes:
            say(f"  note: {note}")
        if from_transformers(facts):
            from tasks.adopt.exports.transformers_onnx import to_onnx

            file = Path(scratch) / f"{path.resolve().name}.onnx"
            to_onnx(facts.path, file, model.size)
            model = replace(model, path=file)
        yield model


def _described(model: Deployed) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (model.mean, model.std))
    order = "BGR" if model.bgr else "RGB"
    return (
        f"{len(model.classes)} classes ({', '.join(model.classes[:5])}{', ...' * (len(model.classes) > 5)}), "
        f"{model.size} pixels a side, {order}, fit {model.fit}, mean {mean}, std {std}"
    )
