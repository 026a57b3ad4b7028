"""One line per stage for the terminal, from the stage's metrics file."""

from collections.abc import Callable
from pathlib import Path

from tasks.common.files import read_json
from tasks.common.plural import counted
from tasks.stages.validate.table import LEAKS, LEFT_OUT, left_out_text


def _inspect(m: dict) -> str:
    leaks = sum(m["leaks"].values())
    return f"{m['rows']:,} images, {m['near_duplicates']['images']} near-duplicates, {leaks} leaks between splits"


def _validate(m: dict) -> str:
    line = f"{m['accepted']:,} of {m['rows']:,} accepted, {m['classes']} classes, {m['checks']} checks passed"
    if leaks := sum(count for why, count in m.get("excluded", {}).items() if why.startswith(LEAKS)):
        line += f"; {leaks} left out as copies of held-out images"
    if broken := {why: count for why, count in m.get("quarantined", {}).items() if why != LEFT_OUT}:
        line += f"; {sum(broken.values()):,} quarantined ({', '.join(sorted(broken))})"
    return line + (f"; left out: {left_out_text(m['left_out'])}" if m.get("left_out") else "")


def _clean(m: dict) -> str:
    return m["sentence"]


def _train_backbone(m: dict) -> str:
    return f"{m['train_images']:,} images, best of {m['epochs']} epochs: {m['best_epoch']}"


def _train_head(m: dict) -> str:
    tried = {name.removeprefix("score_"): value for name, value in m.items() if name.startswith("score_")}
    line = "calibration score: " + ", ".join(f"{name} {value:.3f}" for name, value in sorted(tried.items()))
    probes = {name.removeprefix("probe_"): value for name, value in m.items() if name.startswith("probe_")}
    lead, error = probes.pop("lead", None), probes.pop("lead_error", None)
    if lead is None:
        return line
    if m["network"] == "pretrained":
        found = f"better by {100 * lead:.1f} points (standard error {100 * error:.1f}), so the model is that"
        return f"{line}; a probe of the frozen backbone is {found}"
    return f"{line}; probe of the frozen backbone {max(probes.values()):.3f}"


def _calibrate(m: dict) -> str:
    method = m.get("scaling", {}).get("method", "temperature")  # of a run before an upgrade
    losses = f"log loss {m['log_loss_before']:.3f} -> {m['log_loss_after']:.3f}"
    return f"calibration: {method}, temperature {m['temperature']:.2f}, {losses}"


def _evaluate(m: dict) -> str:
    metric = "balanced_accuracy" if "balanced_accuracy" in m["test"] else "macro_f1"  # multi-label has none
    line = f"{metric.replace('_', ' ')}: test {m['test'][metric]:.3f}"
    if m.get("hard"):
        line += f", hard set {m['hard'][metric]:.3f}"
    return f"{line}; {m['latency_ms']['p50']:.1f} ms an image"


SUMMARIES: dict[str, Callable[[dict], str]] = {
    "inspect": _inspect,
    "validate": _validate,
    "embed": lambda m: f"{m['rows']:,} x {m['dim']:,} features in {counted(m['shards'], 'shard')}",
    "clean": _clean,
    "train_backbone": _train_backbone,
    "train_head": _train_head,
    "calibrate": _calibrate,
    "evaluate": _evaluate,
    "bundle": lambda m: f"{m['size_mb']:.1f} MB, {m['digest'][:12]}",
}


def summary(name: str, root: Path) -> str:
    """What stage `name` found, in one line."""
    return SUMMARIES[name](read_json(root / "metrics" / f"{name}.json"))
