"""Answer new photos, and compare them with those of the last model by an Evidently report.

`python -m benchmarks.scripts_peers.drift FOLDER SIDE`; FOLDER is a delivery, {train,val,test}/<class>.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import torch
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from torchvision.datasets import ImageFolder

from benchmarks.scripts_peers import network, photos
from benchmarks.scripts_peers.release import MODEL, measures


def answered(folder: str, side: int) -> pd.DataFrame:
    classes = json.loads((MODEL / "classes.json").read_text())
    model = network.create_model(network.BACKBONE, "none", len(classes), side)
    model.load_state_dict(torch.load(MODEL / "model.pt", weights_only=True))
    parts = [ImageFolder(str(part), photos.plain(side)) for part in sorted(Path(folder).iterdir())]
    data = torch.utils.data.ConcatDataset(parts)
    return measures([path for part in parts for path, _ in part.samples], network.predict(model, data)[0], classes)


def report(new: pd.DataFrame, reference: pd.DataFrame) -> None:
    """Write report.html."""
    numbers = [name for name in new.columns if name != "answer"]
    about = DataDefinition(numerical_columns=numbers, categorical_columns=["answer"])
    now, then = (Dataset.from_pandas(table[[*numbers, "answer"]], about) for table in (new, reference))
    Report([DataDriftPreset()]).run(now, then).save_html("report.html")


if __name__ == "__main__":
    report(answered(sys.argv[1], int(sys.argv[2])), pd.read_parquet(MODEL / "reference.parquet"))
