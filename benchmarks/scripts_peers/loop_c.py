"""Peer C: Evergreen's stages as plain `dvc repro`, with a release and a drift report by hand.

`python -m benchmarks.scripts_peers.loop_c release` after `dvc repro`; `... loop_c drift FOLDER` for new photos.
"""

import json
import subprocess
import sys
from pathlib import Path

BUNDLE, METRICS, LAST = Path("artifacts/bundle"), Path("metrics/evaluate.json"), Path("released.json")
WORSE = 0.01  # balanced accuracy that a new model may lose by chance


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def release() -> None:
    """Commit, tag and push what `dvc repro` made unless it is worse than the last release."""
    score = json.loads(METRICS.read_text())["test"]["balanced_accuracy"]
    before = json.loads(LAST.read_text())["balanced_accuracy"] if LAST.exists() else 0.0
    if score < before - WORSE:
        print(f"not released: {score:.4f}, before {before:.4f}")
        return
    LAST.write_text(json.dumps({"balanced_accuracy": score}))
    run("git", "add", "dvc.lock", "released.json", "metrics")
    run("git", "commit", "--quiet", "-m", f"model: {score:.4f}")
    tags = subprocess.run(["git", "tag"], check=True, capture_output=True, text=True).stdout.split()
    run("git", "tag", f"v{len(tags) + 1}")
    run(sys.executable, "-m", "dvc", "push", "--quiet")
    print(f"released v{len(tags) + 1}: balanced accuracy {score:.4f}")


def drift(folder: str) -> None:
    """Answer the photos of `folder`, and write report.html: their answers beside those of the model's reference."""
    import numpy as np
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    from serving.predictor import Predictor

    model = Predictor(BUNDLE, threads=2)
    answers = model.predict([file.read_bytes() for file in sorted(Path(folder).rglob("*.jpg"))])
    new = pd.DataFrame({"prediction": one.label, "confidence": one.confidence} for one in answers)
    known = np.stack(pd.read_parquet(BUNDLE / "reference.parquet", columns=["probabilities"])["probabilities"])
    reference = pd.DataFrame(
        {"prediction": np.array(model.classes)[known.argmax(axis=1)], "confidence": known.max(axis=1)}
    )
    about = DataDefinition(numerical_columns=["confidence"], categorical_columns=["prediction"])
    now, then = (Dataset.from_pandas(table, about) for table in (new, reference))
    Report([DataDriftPreset()]).run(now, then).save_html("report.html")


if __name__ == "__main__":
    release() if sys.argv[1] == "release" else drift(sys.argv[2])
