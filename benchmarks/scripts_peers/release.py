"""Version photos and models with DVC, release a model that is not worse, keep what drift is compared with."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cleanlab.filter import find_label_issues
from PIL import Image, ImageStat
from sklearn.metrics import balanced_accuracy_score

MODEL, METRICS, JUDGED = Path("model"), Path("metrics.json"), Path("judged.json")
WORSE = 0.01  # balanced accuracy that a new model may lose by chance


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def dvc(*arguments: str) -> None:
    run(sys.executable, "-m", "dvc", *arguments)


def version_photos() -> None:
    dvc("add", "--quiet", "photos")
    run("git", "add", "photos.dvc", ".gitignore")
    run("git", "commit", "--quiet", "--allow-empty", "-m", "photos")


def kept_rows(probabilities: np.ndarray, labels: np.ndarray, paths: list[str]) -> np.ndarray:
    """Rows (M,) whose label cleanlab does not doubt; the others are listed in issues.csv for a person."""
    wrong = find_label_issues(labels, probabilities)
    issues = {"path": [paths[row] for row in np.flatnonzero(wrong)], "guess": probabilities[wrong].argmax(axis=1)}
    pd.DataFrame(issues).to_csv("issues.csv", index=False)
    return np.flatnonzero(~wrong)


def measures(paths: list[str], probabilities: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """What drift is measured on: light, contrast, answer and confidence of each photo."""
    rows = []
    for path, answer in zip(paths, probabilities, strict=True):
        with Image.open(path) as image:
            image.draft("L", (64, 64))
            light = ImageStat.Stat(image.convert("L"))
        about = {"brightness": light.mean[0], "contrast": light.stddev[0]}
        rows.append(about | {"answer": classes[answer.argmax()], "confidence": float(answer.max())})
    return pd.DataFrame(rows)


def release(model: torch.nn.Module, classes: list[str], answers: np.ndarray, truth: np.ndarray, paths: list) -> None:
    """Judge `model` by its `answers` to the test photos; commit, tag and push it unless it is worse than the last."""
    score = balanced_accuracy_score(truth, answers.argmax(axis=1))
    JUDGED.write_text(json.dumps({"balanced_accuracy": score, "test": len(truth)}))
    before = json.loads(METRICS.read_text())["balanced_accuracy"] if METRICS.exists() else 0.0
    if score < before - WORSE:
        print(f"not released: {score:.4f}, before {before:.4f}")
        return
    MODEL.mkdir(exist_ok=True)
    torch.save(model.state_dict(), MODEL / "model.pt")
    (MODEL / "classes.json").write_text(json.dumps(classes))
    measures(paths, answers, classes).to_parquet(MODEL / "reference.parquet")
    METRICS.write_text(JUDGED.read_text())
    dvc("add", "--quiet", str(MODEL))
    run("git", "add", "model.dvc", "metrics.json", "issues.csv", ".gitignore")
    run("git", "commit", "--quiet", "-m", f"model: {score:.4f}")
    tags = subprocess.run(["git", "tag"], check=True, capture_output=True, text=True).stdout.split()
    run("git", "tag", f"v{len(tags) + 1}")
    dvc("push", "--quiet")
    print(f"released v{len(tags) + 1}: balanced accuracy {score:.4f}")
