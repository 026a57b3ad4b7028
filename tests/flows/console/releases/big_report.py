"""The stored data of a report with 200 classes and hostile names, as flows.release_report.stored writes it."""

from flows.release_report.stored import SCHEMA

HOSTILE = '<img src=x onerror="alert(1)">'
CLASSES = [HOSTILE, "\u05d0\u05d1\u05d2 \u202e right to left", "a name " * 30, *(f"class {n}" for n in range(197))]


def big_report() -> dict:
    """Every part is as full as it gets."""
    row = {"group": "test set", "name": "balanced accuracy", "n": 12000, "new": 0.61, "low": 0.6, "high": 0.62}
    row |= {"old": 0.6, "change_low": -0.01, "change_high": 0.03, "change": 0.01, "trend": "same", "share": True}
    image = {"id": "a" * 64, "path": HOSTILE, "given": CLASSES[0], "said": CLASSES[1], "confidence": 0.97}
    line = " ".join(f"{x},{300 - x}" for x in range(0, 301, 3))
    point = {"x": 100.0, "y": 120.0, "top": 100.0, "bottom": 140.0, "n": 9}
    cells = [{"share": share / 19, "n": share, "own": share == 3} for share in range(20)]
    return {
        "schema": SCHEMA,
        "champion": {"version": "v0.3.0", "at": "2026-11-27T10:00:00+00:00"},
        "images": 12000,
        "headline": "Held back",
        "notes": [f"This model is provisional {HOSTILE}"],
        "key_figures": [
            {
                "name": HOSTILE,
                "value": "61.0",
                "unit": "%",
                "change": "+1.0 points",
                "trend": trend,
                "note": "was 60.0 %",
            }
            for trend in ("better", "worse", "same", "unknown")
        ],
        "rows": [row | {"group": name} for name in CLASSES[:40]],
        "picked": f"How the images were picked: {HOSTILE}",
        "outlook": [HOSTILE],
        "recalls": [
            {"class": name, "train": 1000, "n": 50, "shot": "few", "new": 0.6, "low": 0.5, "high": 0.7, "old": None}
            for name in CLASSES
        ],
        "confusion": {
            "names": CLASSES[:20],
            "rows": [{"name": name, "n": 190, "cells": cells} for name in CLASSES[:20]],
            "left_out": 180,
        },
        "reliability": {"points": [point] * 15, "line": line, "bars": []},
        "old_reliability": {"points": [point] * 15, "line": line, "bars": []},
        "curves": {
            "mean": line,
            "average": 0.7,
            "classes": [{"name": n, "average": 0.1, "line": line} for n in CLASSES[:5]],
        },
        "old_curves": {"mean": line, "average": 0.7, "classes": []},
        "mistakes": [image | {"doubtful": True}] * 20,
        "wrong": 4000,
        "issues": [
            image | {"split": "train", "suggested": CLASSES[2], "action": action}
            for action in ("relabel", "drop", "queue")
        ]
        * 8,
        "issue_counts": {"relabel": 8, "drop": 8, "queue": 400},
        "labels_sentence": HOSTILE,
        "quarantined": 70,
        "reasons": [["too_large", 70]],
        "refused": [{"where": HOSTILE, "batch": "b-1", "reason": "torn", "detail": HOSTILE}] * 60,
        "excluded": {"leaks_test": 2},
        "changes": {
            "splits": [["train", 1000, 1200]],
            "classes": [[name, 10, 12] for name in CLASSES[:60]],
            "batches": [{"batch": "b-1", "kind": "import", "accepted": 18, "new": True}] * 30,
            "gone": ["b-0"],
            "params": [[f"clean.{n}", 1, HOSTILE] for n in range(60)],
            "commits": [["abc1234", HOSTILE]] * 60,
        },
        "commands": [{"what": HOSTILE, "lines": ["git worktree add", HOSTILE]}],
        "versions": {"dvc": "3.1"},
        "about": {"git_revision": "a" * 40, "data": "b" * 64},
    }
