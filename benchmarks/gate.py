"""Does the gate promote what is not better, and does it promote what is?

    nice python -m benchmarks.gate KEPT --cifar cut-dev-aggre.parquet --images pacs-128.parquet [--quick]

Everything is judged by the gate itself (tasks.gate.judge with its defaults), on evidence like a retraining's: test,
newest batch, hard set, cameras, slices, classes, corruptions, calibration.

- equal_candidates_promoted: 2,000 challengers that are equal to the champion in truth (benchmarks.gate_populations):
  CIFAR-10 as a trained network sees it, nearly the same models, five shots of each object, a long tail, several labels
- better_promoted_gap: challengers truly 2 points better, on 500, 2,000 and 10,000 test images. Peer: McNemar's exact
  test of the same answers at the same level, which looks at the test images alone and protects nothing
- worse_by_the_margin_promoted: with `when_equal: promote`, challengers as much worse as the margin allows
- sabotaged_promoted: real models and images, each spoiled in one way (benchmarks.gate_sabotage)
- seeds_noise_points: how far the same recipe with other seeds moves the gate's metric, and how often by less than the
  distance of equal models that the verdict names (benchmarks.gate_seeds)

--cifar is a Parquet file with the columns `probabilities` and `true`; without it a simulated population stands for it.
--images is one with the columns `image`, `label` and `domain`, whose values are the cameras of the sabotaged models;
without it, the test images of datasets/fashion are used. Every trial is kept in KEPT, and a second call goes on where
the first one was stopped. `--only` runs some parts and records nothing. About 40 minutes of one core.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks import gate_seeds
from benchmarks.biased_queue import upper_bound
from benchmarks.gate_populations import Population, draw, real, simulated, simulated_labels
from benchmarks.gate_sabotage import CONTROLS, kept_verdicts
from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, say
from tasks.common.params import GateParams
from tasks.gate.judge import judge
from tasks.gate.paired import mcnemar

NOISE = 0.7  # of a model of the recipe: two of them differ on 7 % of CIFAR's images
BATCH = 25  # trials between two writes
GAIN = 0.02
QUICK = ["unspoiled", "label columns permuted", "hard images it has wrong left out"]  # sabotages of a quick pass


@dataclass(frozen=True, eq=False)
class Case:
    """Trials of one kind."""

    population: Population
    images: int
    gain: float
    trials: int
    policy: GateParams

    @property
    def name(self) -> str:
        return f"{self.population.name}-{self.images}-{100 * self.gain:+g}-{self.policy.when_equal}"


def cases(cifar: Path | None, quick: bool) -> dict[str, list[Case]]:
    """The trials of each figure."""

    def population(name: str, **more) -> Population:
        if cifar is None:
            return simulated(name=name, noise=NOISE, **more)
        return real(cifar, name=name, noise=NOISE, **more)

    alike = population("cifar")
    policy, promote = GateParams(), GateParams(when_equal="promote")
    equal = [
        (alike, 1_450),
        (population("nearly the same", shared=0.8), 250),
        (population("five shots", grouped=5), 100),
        (simulated(name="long tail", classes=30, tail=100, noise=NOISE), 100),
        (simulated_labels(name="several labels", noise=NOISE), 100),
    ]
    found = {
        "equal": [Case(one, 1_000, 0.0, trials, policy) for one, trials in equal],
        "better": [Case(alike, n, GAIN, trials, policy) for n, trials in ((500, 600), (2_000, 300), (10_000, 50))],
        "worse": [Case(alike, 2_000, -policy.margin, 100, promote), Case(alike, 2_000, 0.0, 40, promote)],
    }
    if not quick:
        return found
    small = {"images": 200, "trials": 2, "policy": policy.model_copy(update={"resamples": 200})}
    return {
        name: [Case(**{**vars(case), **small, "policy": small["policy"].model_copy(update={"when_equal":
            case.policy.when_equal})}) for case in parts if case.images <= 2_000]
        for name, parts in found.items()
    }  # fmt: skip


def trial(case: Case, seed: int) -> dict:
    """One verdict: {outcome, shown, mcnemar, failed}, where shown: the gain was shown, failed: names of checks."""
    pair = draw(case.population, case.images, case.gain, seed)
    verdict = judge(pair.challenger, pair.champion, pair.trial, case.policy)
    gained, lost = int((pair.new & ~pair.old).sum()), int((~pair.new & pair.old).sum())
    shown = any(check.detail.startswith("better:") for check in verdict.checks)
    return {
        "outcome": verdict.outcome,
        "shown": shown,
        "mcnemar": mcnemar(gained, lost)[0] <= (1 - case.policy.confidence) / 2,
        "failed": [check.name for check in verdict.checks if check.status != "pass"],
    }


def kept_trials(kept: Path, case: Case) -> list[dict]:
    """The case's trials, those in `kept` first."""
    file = kept / f"{case.name.replace(' ', '-')}.json"
    done = json.loads(file.read_text()) if file.is_file() else []
    kept.mkdir(parents=True, exist_ok=True)
    while len(done) < case.trials:
        ends = min(case.trials, len(done) + BATCH)
        done += [trial(case, seed) for seed in range(len(done), ends)]
        file.write_text(json.dumps(done))
        say(f"{case.name}: {promotions(done)} of {len(done)} promoted")
    return done[: case.trials]


def promotions(trials: list[dict]) -> int:
    return sum(one["outcome"] == "promote" for one in trials)


def share(trials: list[dict]) -> str:
    return f"{promotions(trials)} of {len(trials)}"


def equal_figure(found: dict[Case, list[dict]]) -> Figure:
    every = [one for trials in found.values() for one in trials]
    rejected = sum(one["outcome"] == "reject" for one in every)
    return Figure(
        name="equal_candidates_promoted",
        value=upper_bound(promotions(every), len(every)),
        unit="upper 95 % bound of the share",
        goal=0.02,
        better="lower",
        seeds=len(every),
        peer=", ".join(f"{case.population.name} {share(trials)}" for case, trials in found.items()),
        spread=f"{share(every)} promoted, {rejected} rejected",
    )


def better_figures(found: dict[Case, list[dict]]) -> list[Figure]:
    """The largest gap between McNemar's power and the gate's, and the gate's power on each number of images."""
    figures, gaps = [], []
    for case, trials in found.items():
        power = promotions(trials) / len(trials)
        plain = sum(one["mcnemar"] for one in trials) / len(trials)
        gaps.append((case.images, plain - power))
        kept = Counter(
            name.split("=")[0]
            for one in trials
            if one["shown"] and one["outcome"] != "promote"
            for name in one["failed"]
        )
        figures.append(
            Figure(
                name=f"better_promoted_{case.images}",
                value=power,
                unit="promoted",
                goal=None,
                better="higher",
                peer=f"McNemar {plain:.3f}",
                seeds=len(trials),
                spread="shown but held for " + (", ".join(f"{n} x {name}" for name, n in kept.items()) or "nothing"),
            )
        )
    worst = Figure(
        name="better_promoted_gap",
        value=max(gap for _, gap in gaps),
        unit="of the share promoted",
        goal=0.05,
        better="lower",
        peer="McNemar's exact test at the same level",
        seeds=sum(len(trials) for trials in found.values()),
        spread=", ".join(f"{images} images {gap:+.3f}" for images, gap in gaps),
    )
    return [worst, *figures]


def worse_figure(found: dict[Case, list[dict]]) -> Figure:
    (worse, trials), (_, equal) = found.items()
    return Figure(
        name="worse_by_the_margin_promoted",
        value=promotions(trials) / len(trials),
        unit="of the challengers",
        goal=None,
        better="lower",
        peer=f"equal models: {share(equal)}",
        seeds=len(trials),
        spread=f"{share(trials)} promoted, {worse.images} test images, when_equal: promote",
    )


def sabotaged_figure(verdicts: dict[str, dict]) -> Figure:
    """Spoiled models that were promoted, with what caught each of the others."""
    spoiled = {name: one for name, one in verdicts.items() if name not in CONTROLS}
    promoted = [name for name, one in spoiled.items() if one["outcome"] == "promote"]
    caught = [f"{name}: {one['outcome']}, {', '.join(one['caught'][:3])}" for name, one in spoiled.items()]
    controls = ", ".join(f"{name}: {verdicts[name]['outcome']}" for name in CONTROLS if name in verdicts)
    return Figure(
        name="sabotaged_promoted",
        value=len(promoted),
        unit=f"of {len(spoiled)}",
        goal=0,
        better="lower",
        peer=controls,
        spread="; ".join([*(f"PROMOTED {name}" for name in promoted), *caught]),
    )


def sabotaged(options: argparse.Namespace) -> dict[str, dict]:
    """The verdicts on spoiled models; of a quick pass on two."""
    images, source = (options.images, "domain") if options.images else (FASHION / "base.parquet", "source")
    most, only = (400, QUICK) if options.quick else (2_600, None)
    return kept_verdicts(options.kept, images, most, source, only)


def simulated_figures(options: argparse.Namespace) -> list[Figure]:
    found = {
        name: {case: kept_trials(options.kept, case) for case in parts}
        for name, parts in cases(options.cifar, options.quick).items()
    }
    return [equal_figure(found["equal"]), *better_figures(found["better"]), worse_figure(found["worse"])]


def seeds_figures(options: argparse.Namespace) -> list[Figure]:
    seeds = 2 if options.quick else gate_seeds.SEEDS
    return gate_seeds.figures(gate_seeds.kept_answers(options.kept, seeds, options.quick))


PARTS = {
    "simulated": simulated_figures,
    "sabotaged": lambda options: [sabotaged_figure(sabotaged(options))],
    "seeds": seeds_figures,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder for the outcomes of trials")
    parser.add_argument("--cifar", type=Path, help="Parquet file with the columns probabilities and true")
    parser.add_argument("--images", type=Path, help="Parquet file with the columns image, label and domain")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument("--quick", action="store_true", help="a few trials; records nothing")
    options = parser.parse_args(arguments)
    figures = [figure for part in options.only for figure in PARTS[part](options)]
    command = "python -m benchmarks.gate KEPT --cifar cut-dev-aggre.parquet --images pacs-128.parquet"
    report("gate", command, figures, options.quick or len(options.only) < len(PARTS))


if __name__ == "__main__":
    main()
