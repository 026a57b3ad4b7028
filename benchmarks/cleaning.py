"""Does `clean` leave clean labels alone, and does it still gain on noisy ones?

    python -m benchmarks.cleaning KEPT [--signs FILE] [--trashnet FILE] [--infrared FILE] [--pacs FILE]
                                  [--cifar10n FILE] [--splits 50] [--seeds 5] [--only SET] [--quick]

For each set and split, on features of the frozen pretrained network: a fifth is held out (whole groups), the labels of
the rest are judged and repaired as stage `clean` does it, and a class-balanced linear head is trained on the given and
on the repaired labels. Both predict the true held-out labels; the difference of their balanced accuracies is the gain.

- clean labels (`--splits` splits): how many correct labels are changed, and what that costs
- 10 % and 30 % wrong labels (`--seeds` draws): in each class this share is replaced, by the frequency of the others
- the default set's own wrong labels (8 %), and with --cifar10n those of people (aggre 9 %, worse 40 % wrong)

Peer, in the same run: `before`, which repairs whatever confident learning suspects (the same caps, no evidence needed).
Files are Parquet with the columns image and label: belgium-signs (by its column pole, and by image), TrashNet,
InfraredSolar and PACS (cut to 5,000 images), CIFAR-10N as for benchmarks.label_noise. Features and results are kept in
KEPT: a stopped run goes on where it was, and results of older code are measured again.

Expected: no set with more than .2 % of correct labels changed, harm at most .5 points. Gains are those of `before` or
above on weak features, and below where noise is plenty: fewer labels are repaired. About 40 CPU minutes.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.label_noise import LabelSet, cifar10n, fashion, features
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key, read_json, write_json
from tasks.common.params import CleanParams, Params, load_params
from tasks.models import probe
from tasks.models.folds import assign_folds
from tasks.scoring.intervals import two_sided
from tasks.stages.clean.judge import Judgement, judge_training
from tasks.stages.clean.stage import repair

MOST = 5_000  # images of a set
PEOPLE = 10_000  # images of CIFAR-10N
NOISES = (0.1, 0.3)
QUICK = 8  # every QUICK-th image in a quick pass


@dataclass(frozen=True)
class Case:
    """One set with one kind of wrong labels: "clean", "given" (as they come), or a share to replace."""

    labels: LabelSet
    noise: str | float
    draws: int

    @property
    def name(self) -> str:
        return f"{self.labels.name} {self.noise}"


def read_set(name: str, file: Path, group: str | None, params: Params, step: int) -> LabelSet:
    """At most MOST random images of `file`, with their features; `group`: the column with the groups, or None."""
    table = pq.read_table(file)
    if len(table) > MOST:
        table = table.take(pa.array(np.sort(np.random.default_rng(0).permutation(len(table))[:MOST])))
    table = table[::step]
    classes, y = np.unique(table["label"].to_pylist(), return_inverse=True)
    groups = np.array(table[group].to_pylist() if group else [str(row) for row in range(len(table))])
    x = features(table["image"].combine_chunks().field("bytes").to_pylist(), params)
    return LabelSet(name, x, y, y, groups, classes.tolist())


def kept_set(file: Path, make) -> LabelSet:
    """The set in `file`, made and written if there is none."""
    if not file.is_file():
        made = make()
        with atomic_path(file) as temporary, open(temporary, "wb") as out:
            np.savez(
                out, x=made.x, given=made.given, true=made.true, groups=made.groups, classes=np.array(made.classes)
            )
    found = np.load(file)
    return LabelSet(file.stem, *(found[name] for name in ("x", "given", "true", "groups")), found["classes"].tolist())


def cases(options: argparse.Namespace, params: Params) -> Iterator[Case]:
    """Every set with every kind of wrong labels."""
    step = QUICK if options.quick else 1
    splits, seeds = (1, 1) if options.quick else (options.splits, options.seeds)
    folder = options.kept / content_key(params.embed.backbone, params.images.resolution, step)[:8]
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"fashion": lambda: fashion(params, step)}
    for name, group in (("signs", "pole"), ("trashnet", None), ("infrared", None), ("pacs", None)):
        if file := getattr(options, name):
            makers[name] = lambda n=name, f=file, g=group: read_set(n, f, g, params, step)
    for name, make in makers.items():
        one = kept_set(folder / f"{name}.npz", make)
        alone = replace(one, name=f"{name}_by_image", groups=np.arange(len(one.true)).astype(str))
        for labels in (one, alone) if name == "signs" else (one,):
            yield Case(labels, "clean", splits)
            for noise in NOISES:
                yield Case(labels, noise, seeds)
            if (labels.given != labels.true).any():
                yield Case(labels, "given", seeds)
    if options.cifar10n:
        for place, name in enumerate(("cifar10n_worse", "cifar10n_aggre")):
            rows = 600 if options.quick else PEOPLE
            yield Case(
                kept_set(folder / f"{name}.npz", lambda p=place, r=rows: cifar10n(options.cifar10n, params, r)[p]),
                "given",
                seeds,
            )


def inject(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels `y` with `share` of each class replaced, by the frequency of the other classes."""
    rng, out, counts = np.random.default_rng(seed), y.copy(), np.bincount(y)
    for number in range(len(counts)):
        rows = np.flatnonzero(y == number)
        rows = rng.choice(rows, round(share * len(rows)), replace=False)
        weight = np.where(np.arange(len(counts)) == number, 0, counts)
        out[rows] = rng.choice(len(counts), len(rows), p=weight / weight.sum())
    return out


def measure(case: Case, draw: int, policy: CleanParams) -> dict:
    """Shares of changed labels, and balanced accuracy (percent) of heads of the given, repaired and `before` labels."""
    one, k = case.labels, len(case.labels.classes)
    members = one.true[:, None] == np.arange(k)
    test = assign_folds(members, one.groups, 5, draw) == draw % 5
    test &= ~np.isin(one.true, np.flatnonzero(~members[~test].any(axis=0)))  # no class without a training image
    x, groups, true = one.x[~test].astype(np.float32), one.groups[~test], one.true[~test]
    given = {"clean": true, "given": one.given[~test]}.get(case.noise)
    given = inject(true, case.noise, draw) if given is None else given
    judged = judge_training(x, given, one.classes, groups, groups, policy.folds, policy.seed)
    decision, gain, verdict = repair(judged, x, given, one.classes, groups, groups, policy)
    after = (decision.actions == "relabel", decision.actions == "drop")
    before = suspected(judged.suspicion, given, policy)
    found = {"rows": len(given), "looks_wrong": float(judged.suspicion.is_issue.mean()), "wrong": 0.0}
    found |= {"wrong": float((given != true).mean()), "allowed": bool(verdict and verdict.allowed)}
    found |= {"proof": None if gain is None else [gain.gain, gain.low, gain.high]}
    found["score_given"] = score(x, given, one.x[test], one.true[test], k)
    for name, (relabel, drop) in (("after", after), ("before", before)):
        labels = np.where(relabel, judged.suspicion.predicted, given)
        found |= {
            f"changed_{name}": float((relabel | drop).mean()),
            f"damage_{name}": float(((relabel | drop) & (given == true)).mean()),
            f"score_{name}": score(x[~drop], labels[~drop], one.x[test], one.true[test], k),
        }
    return found


def suspected(judgement: Judgement, y: np.ndarray, policy: CleanParams) -> tuple[np.ndarray, np.ndarray]:
    """(relabel, drop), (N,) bool: what confident learning alone would change, within the caps for each class."""
    counts = np.bincount(y, minlength=judgement.predicted.max() + 1)
    other = judgement.predicted
    relabel = judgement.is_issue & (other != y) & (judgement.confidence >= policy.relabel_confidence)
    drop = judgement.is_issue & ~relabel & (judgement.quality <= policy.drop_quality)
    allowed = (counts[y] > policy.rare_class) & (~relabel | (counts[other] > policy.rare_class))
    for number in range(len(counts)):
        rows = np.flatnonzero((y == number) & (relabel | drop) & allowed)
        rows = rows[np.argsort(judgement.quality[rows], kind="stable")]
        allowed[rows[int(counts[number] * policy.max_changed_share) :]] = False
    return relabel & allowed, drop & allowed


def score(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, classes: int) -> float:
    """Balanced accuracy (percent) of a class-balanced linear head of `x`, `y`."""
    weight = 1 / np.maximum(np.bincount(y, minlength=classes), 1)[y]
    predicted = probe.fit(x, y, classes, sample_weight=weight).logits(x_test).argmax(axis=1)
    return 100 * float(np.mean([(predicted[y_test == k] == k).mean() for k in np.unique(y_test)]))


def kept_results(case: Case, kept: Path, policy: CleanParams) -> list[dict]:
    """One result per draw, measured unless it is in `kept`."""
    key = content_key(
        code_version("tasks.stages.clean.stage"), policy.model_dump(), len(case.labels.true), case.labels.name
    )[:12]
    results = []
    for draw in range(case.draws):
        file = kept / "results" / f"{case.labels.name}-{case.noise}-{draw}-{key}.json"
        if not file.is_file():
            write_json(file, measure(case, draw, policy))
            one = read_json(file)
            line = f"  {case.name:22} draw {draw}: {one['looks_wrong']:.1%} look wrong"
            for arm in ("after", "before"):
                line += f"; {arm} {one[f'changed_{arm}']:.2%} changed, {gained(one, arm):+.2f} points"
            say(line)
        results.append(read_json(file))
    return results


def gained(result: dict, arm: str) -> float:
    return result[f"score_{arm}"] - result["score_given"]


def figures_of(found: dict[tuple[str, str | float], list[dict]]) -> list[Figure]:
    """Figures of the results of each (set, noise)."""
    clean = {name: results for (name, noise), results in found.items() if noise == "clean"}
    figures = [
        _worst("clean_wrong_changes", clean, lambda rs, arm: _mean([r[f"damage_{arm}"] for r in rs]), 0.002, ""),
        _worst("clean_harm_points", clean, lambda rs, arm: _upper([-gained(r, arm) for r in rs]), 0.5, "points"),
    ]
    for noise in (*NOISES, "given"):
        sets = {name: results for (name, kind), results in found.items() if kind == noise}
        if sets:
            label = "as_given" if noise == "given" else f"{noise:.0%}".replace("%", "_percent")
            gains = {
                arm: {name: _mean([gained(r, arm) for r in rs]) for name, rs in sets.items()}
                for arm in ("after", "before")
            }
            changed = {name: _mean([r["allowed"] for r in rs]) for name, rs in sets.items()}
            figures.append(
                Figure(
                    name=f"clean_gain_points_{label}",
                    value=_mean(list(gains["after"].values())),
                    unit="points",
                    goal=None,
                    better="higher",
                    peer=f"before {_mean(list(gains['before'].values())):+.2f}: {_each(gains['before'], '+.2f')}",
                    seeds=min(len(rs) for rs in sets.values()),
                    spread=f"{_each(gains['after'], '+.2f')}; share of draws with a repair: {_each(changed, '.1f')}",
                )
            )
    return figures


def _worst(name: str, sets: dict[str, list[dict]], of, goal: float, unit: str) -> Figure:
    after, before = ({key: of(rs, arm) for key, rs in sets.items()} for arm in ("after", "before"))
    form = ".4f" if not unit else "+.2f"
    return Figure(
        name=name,
        value=max(after.values()),
        unit=unit,
        goal=goal,
        better="lower",
        peer=f"before: {_each(before, form)}",
        seeds=min(len(rs) for rs in sets.values()),
        spread=f"the worst set of {_each(after, form)}",
    )


def _upper(values: list[float]) -> float:
    """Upper 95 % bound of the mean."""
    if len(values) < 2:
        return _mean(values)
    return _mean(values) + two_sided(0.9) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _each(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for features and results")
    for name in ("signs", "trashnet", "infrared", "pacs", "cifar10n"):
        parser.add_argument(f"--{name}", type=Path, help="Parquet file")
    parser.add_argument("--splits", type=int, default=50, help="splits of each set with clean labels")
    parser.add_argument("--seeds", type=int, default=5, help="draws of each set with wrong labels")
    parser.add_argument("--only", help="measure only sets whose name starts so; records nothing")
    parser.add_argument("--quick", action="store_true", help="an eighth of the images, one draw; records nothing")
    options = parser.parse_args(arguments)
    params = load_params(ROOT / "params.yaml")
    found = {
        (case.labels.name, case.noise): kept_results(case, options.kept, params.clean)
        for case in cases(options, params)
        if not options.only or case.labels.name.startswith(options.only)
    }
    given = [f"--{name} {file.name}" for name in ("signs", "trashnet", "infrared", "pacs", "cifar10n")
             if (file := getattr(options, name))]  # fmt: skip
    command = " ".join(
        ["python -m benchmarks.cleaning KEPT", *given, f"--splits {options.splits} --seeds {options.seeds}"]
    )
    report("cleaning", command, figures_of(found), options.quick or bool(options.only))


if __name__ == "__main__":
    main()
