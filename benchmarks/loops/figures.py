"""The figures of benchmarks.loop_vs_scripts, from the results of its arms."""

from collections.abc import Iterable

from benchmarks.record import Figure

NAMES = {
    "ours": "Evergreen",
    "a": "A, five trained folds",
    "b": "B, frozen features, cached by file",
    "c": "C, our stages by dvc repro",
}
LOOP_GOAL, RETRAIN_GOAL = 0.8, 0.2
Results = dict[str, list[dict]]  # arm -> the result of each round


def loop_seconds(result: dict) -> float:
    """From the delivered photos to a model and the first drift report."""
    return result["build"]["wall"] + result["watch"]["wall"]


def before_training(result: dict) -> float:
    """After 5 % new photos, from their delivery to the start of training."""
    return result["retrain"]["before"]


def figures_of(by_count: dict[int, Results]) -> list[Figure]:
    """`by_count`: number of photos -> results. The ratios are those of the number where ours is least ahead."""
    figures = []
    for name, seconds, goal in (
        ("loop_vs_best_script_ratio", loop_seconds, LOOP_GOAL),
        ("retrain_vs_best_script_ratio", before_training, RETRAIN_GOAL),
    ):
        ratios = {count: _ratio(results, seconds) for count, results in by_count.items() if _peers(results)}
        if ratios:
            worst = max(ratios, key=ratios.get)
            listed = "; ".join(f"{n} photos: {_listed(by_count[n], seconds)}" for n in sorted(by_count))
            about = {"unit": "x", "better": "lower", "peer": f"the best of its peers, {worst} photos", "spread": listed}
            figures.append(Figure(name=name, value=ratios[worst], goal=goal, **about))
    for count, results in sorted(by_count.items()):
        if _peers(results):
            figures.append(_points(count, results))
        for arm, rounds in results.items():
            figures += _of_arm(count, arm, rounds)
    return figures


def _best(rounds: Iterable[dict], seconds) -> float:
    """The shortest of all rounds: other work on the machine only adds time."""
    return min(map(seconds, rounds))


def _peers(results: Results) -> list[list[dict]]:
    return [rounds for arm, rounds in results.items() if arm != "ours"]


def _ratio(results: Results, seconds) -> float:
    return _best(results["ours"], seconds) / min(_best(rounds, seconds) for rounds in _peers(results))


def _listed(results: Results, seconds) -> str:
    return ", ".join(f"{arm} {_best(rounds, seconds):.0f} s" for arm, rounds in results.items())


def _points(count: int, results: Results) -> Figure:
    """Balanced accuracy after the retraining: ours minus the best peer's, which trained for as long."""
    after = {arm: 100 * sum(one["scores"][1] for one in rounds) / len(rounds) for arm, rounds in results.items()}
    return Figure(
        name=f"loop_vs_scripts_points_{count}",
        value=after["ours"] - max(score for arm, score in after.items() if arm != "ours"),
        unit="points",
        goal=None,
        better="higher",
        peer="the best peer's balanced accuracy on test",
        spread=", ".join(f"{arm} {score:.1f} %" for arm, score in after.items()),
    )


def _of_arm(count: int, arm: str, rounds: list[dict]) -> list[Figure]:
    """Minutes of the loop, bytes and memory of one arm; the spread has its parts."""
    best = min(rounds, key=loop_seconds)
    about = {"goal": None, "better": "lower", "peer": f"{NAMES[arm]}; {count} photos", "seeds": len(rounds)}
    parts = [
        f"{phase}: {best[phase]['before']:.0f} before, {best[phase]['training']:.0f} training, "
        f"{best[phase]['after']:.0f} after"
        for phase in ("build", "retrain")
    ]
    scores = " and ".join(f"{100 * score:.1f} %" for score in best["scores"])
    written = f"{best['lines']} lines and {best['commands']} commands by the user"
    spread = f"{'; '.join(parts)}; watch {best['watch']['wall']:.0f} s; balanced accuracy {scores}; {written}"
    memory = max(best[phase]["memory"] for phase in ("build", "watch", "retrain"))
    return [
        Figure(name=f"loop_minutes_{arm}_{count}", value=loop_seconds(best) / 60, unit="min", spread=spread, **about),
        Figure(name=f"loop_stored_{arm}_{count}", value=best["stored"] / 1e6, unit="MB", **about),
        Figure(name=f"loop_memory_{arm}_{count}", value=memory / 1e6, unit="MB", **about),
    ]
