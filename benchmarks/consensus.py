"""How many labels are wrong after the majority, Dawid-Skene and CROWDLAB settle three votes?

    python -m benchmarks.consensus --cifar10n FILE [--peer PYTHON] [--quick]

FILE is CIFAR-10N as Parquet: image {bytes}, clean_label, random1, random2 and random3. The votes are the three random
columns; clean_label only scores. Majority and Dawid-Skene see all 50,000 images. CROWDLAB needs out-of-sample
probabilities: it sees twice 10,000 images with clean's probe on frozen features, trained on Dawid-Skene's labels.
A tie of the majority keeps the first annotator's label, as in a project. PYTHON is an interpreter of an environment
with crowd-kit (`pip install crowd-kit`), whose Dawid-Skene is the peer.

Coverage is of the intervals of annotators' quality: six annotators, three of them on each of 600 images, answer as
people did in CIFAR-10N, but know a share of the true labels by chance; so their true quality is known.

Without --cifar10n simulated annotators vote, which says little: for the quick pass. Expected: .087 wrong after the
majority, .080 after Dawid-Skene, .067 after CROWDLAB (of 10,000 images); 4 minutes on 2 cores.
"""

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import label_noise
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from tasks.common.params import load_params
from tasks.labels import consensus
from tasks.labels.consensus import Votes

DRAWS, ROWS = 2, 10_000
TRIALS, ITEMS, PEOPLE = 200, 600, 6  # of the coverage
PEER = """
import json, sys
import numpy as np, pandas as pd
from crowdkit.aggregation import DawidSkene
votes = np.array(json.load(sys.stdin))
n, m = votes.shape
table = pd.DataFrame({"task": np.repeat(np.arange(n), m), "worker": np.tile(np.arange(m), n), "label": votes.ravel()})
print(json.dumps(DawidSkene(n_iter=100).fit_predict(table).sort_index().tolist()))
"""


def people(file: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """CIFAR-10N's votes (N, 3), true classes (N,) and class names."""
    columns = ["clean_label", "random1", "random2", "random3"]
    table = pq.read_table(file, columns=columns).to_pydict()
    classes = sorted(set(table["clean_label"]))
    number = {name: index for index, name in enumerate(classes)}
    true, *votes = ([number[label] for label in table[name]] for name in columns)
    return np.array(votes).T, np.array(true), classes


def simulated(rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Votes of three annotators of different skill on ten classes."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 10, rows)
    wrong = rng.random((rows, 3)) > np.array([0.9, 0.8, 0.65])
    votes = np.where(wrong, (true[:, None] + rng.integers(1, 3, (rows, 3))) % 10, true[:, None])
    return votes, true, [str(number) for number in range(10)]


def flat(votes: np.ndarray, annotators: np.ndarray | None = None) -> Votes:
    """Votes (N, M) of M annotators, or of `annotators` (N, M)."""
    rows, count = votes.shape
    who = np.tile(np.arange(count), rows) if annotators is None else annotators.ravel()
    return Votes(np.repeat(np.arange(rows), count), who, votes.ravel())


def settle(votes: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Labels (N,) by the methods that need only votes (N, M)."""
    listed, first = flat(votes), votes[:, 0]
    fit = consensus.dawid_skene(listed, len(votes), votes.shape[1], classes)
    return {
        "majority": consensus.majority(listed, first, classes),
        "Dawid-Skene": consensus.most_probable(fit, first),
    }


def with_a_model(file: Path, votes: np.ndarray, classes: list[str], draw: int) -> dict[str, float]:
    """Share of wrong labels of each method on ROWS images, where a probe on frozen features votes in CROWDLAB."""
    params = load_params(ROOT / "params.yaml")
    order = np.random.default_rng(0).permutation(len(votes))
    rows = np.sort(order[draw * ROWS : (draw + 1) * ROWS])  # as label_noise.cifar10n draws them
    images = label_noise.cifar10n(file, params, ROWS, draw)[1]
    found = settle(votes[rows], len(classes))
    given = label_noise.LabelSet("consensus", images.x, found["Dawid-Skene"], images.true, images.groups, classes)
    alone = np.arange(len(rows)).astype(str)
    probabilities, _ = label_noise.out_of_fold(given, alone, params.clean.folds, params.clean.seed)
    found["CROWDLAB"] = consensus.crowdlab(flat(votes[rows]), probabilities, votes.shape[1], votes[rows, 0])
    found["the probe alone"] = probabilities.argmax(axis=1)
    return {name: float((labels != images.true).mean()) for name, labels in found.items()}


def coverage(votes: np.ndarray, true: np.ndarray, classes: int, trials: int) -> tuple[float, float]:
    """(share of the intervals of annotators' quality that hold the true one, mean width)."""
    rng, hits, widths = np.random.default_rng(0), [], []
    skill = float((votes == true[:, None]).mean())
    for _ in range(trials):
        rows = rng.permutation(len(votes))[:ITEMS]
        known = rng.uniform(0, 1, PEOPLE)  # the share of true labels that each knows by chance
        who = np.stack([rng.permutation(PEOPLE)[: votes.shape[1]] for _ in rows])
        said = np.where(rng.random(who.shape) < known[who], true[rows, None], votes[rows])
        listed = flat(said, who)
        fit = consensus.dawid_skene(listed, len(rows), PEOPLE, classes)
        for share, found in zip(
            known, consensus.annotator_qualities(listed, fit, PEOPLE, np.ones(len(rows))), strict=True
        ):
            hits.append(found.low <= share + (1 - share) * skill <= found.high)
            widths.append(found.high - found.low)
    return float(np.mean(hits)), float(np.mean(widths))


def peer_labels(python: str, votes: np.ndarray) -> np.ndarray:
    """The labels of crowd-kit's Dawid-Skene, which runs in an environment of its own."""
    command = [python, "-c", PEER]
    ended = subprocess.run(command, input=json.dumps(votes.tolist()), capture_output=True, text=True, check=True)
    return np.array(json.loads(ended.stdout))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10n", type=Path, help="Parquet with image, clean_label, random1, random2, random3")
    parser.add_argument("--peer", help="a Python interpreter that can import crowdkit")
    parser.add_argument("--quick", action="store_true", help="simulated annotators; records nothing")
    options = parser.parse_args(arguments)
    quick = options.quick or options.cifar10n is None
    votes, true, classes = simulated(2000) if quick else people(options.cifar10n)
    wrong = {name: float((labels != true).mean()) for name, labels in settle(votes, len(classes)).items()}
    if options.peer:
        theirs = peer_labels(options.peer, votes)
        wrong["crowd-kit's Dawid-Skene"] = float((theirs != true).mean())
        say(f"same label as crowd-kit: {(theirs == settle(votes, len(classes))['Dawid-Skene']).mean():.4f}")
    say("; ".join(f"{name} {share:.4f}" for name, share in wrong.items()))
    hits, width = coverage(votes, true, len(classes), 20 if quick else TRIALS)
    common = {"unit": "", "goal": None, "better": "lower"}
    peers = "; ".join(f"{name} {share:.4f}" for name, share in wrong.items() if name != "Dawid-Skene")
    figures = [Figure(name="claim_consensus_noise", value=wrong["Dawid-Skene"], peer=peers, **common)]
    if not quick:
        draws = [with_a_model(options.cifar10n, votes, classes, draw) for draw in range(DRAWS)]
        means = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
        peers = "; ".join(f"{name} {share:.4f}" for name, share in means.items() if name != "CROWDLAB")
        shares = [draw["CROWDLAB"] for draw in draws]
        spread = f"min {min(shares):.4f}, max {max(shares):.4f} of {DRAWS} times {ROWS:,} images"
        figures.append(
            Figure(name="consensus_noise_crowdlab", value=means["CROWDLAB"], peer=peers, spread=spread, **common)
        )
    figures.append(
        Figure(
            name="annotator_quality_coverage",
            value=hits,
            unit="",
            goal=0.94,
            better="higher",
            spread=f"mean width {width:.3f}",
        )
    )
    command = "python -m benchmarks.consensus --cifar10n FILE --peer PYTHON"
    report("consensus", command, figures, quick)


if __name__ == "__main__":
    main()
