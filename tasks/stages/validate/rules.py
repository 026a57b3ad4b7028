"""The hard rules of `validate`: small pure functions from counts to a Check with value and bound.

K is the number of compared labels. The rules exist because a validation library reports success for a table without
rows, a column without values and a suite without expectations, and does not know the earlier data.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.common.checks import Check

DRAWS = 1000
SPLITS = ("train", "calibration", "test")
MOST_RARE = 0.5  # share of labelled rows whose labels are too rare to be classes, where data.classes lists none


def _check(name: str, passed: bool, value: float, bound: float, detail: str, low: float | None = None) -> Check:
    return Check(
        name=name,
        status="pass" if passed else "fail",
        value=round(float(value), 6),
        bound=float(bound),
        low=None if low is None else round(float(low), 6),
        detail=detail,
    )


def rows(labelled: int, least: int) -> Check:
    """Fail when there are too few labelled training rows."""
    return _check(
        "rows", labelled >= least, labelled, least, f"{labelled:,} labelled training rows, at least {least:,} expected"
    )


def rare_labels(left_out: int, labelled: int) -> Check:
    """Fail when most labelled rows have labels too rare to be classes: the column is then hardly one of classes."""
    check = _share("rare_labels", left_out, labelled, MOST_RARE, "labelled rows have labels too rare to be classes")
    advice = "were names or numbers read as labels? If not, list the classes that you want in data.classes"
    return check.model_copy(update={"detail": f"{check.detail}: {advice}"})


def null_labels(nulls: int, of: int, most: float) -> Check:
    """Fail when too many rows of a batch have no label."""
    return _share("null_labels", nulls, of, most, "rows have no label")


def quarantined(bad: int, of: int, most: float) -> Check:
    """Fail when too many rows of a batch are quarantined, at ingest or later."""
    return _share("quarantined", bad, of, most, "rows are quarantined")


def _share(name: str, count: int, of: int, most: float, what: str) -> Check:
    """Fail when more than the share `most` of the rows are `count`ed for what `what` says."""
    share = count / max(of, 1)
    return _check(name, share <= most, share, most, f"{count:,} of {of:,} {what}, at most {most:.0%} expected")


def prior_change(batch: np.ndarray, earlier: np.ndarray, most: float) -> Check:
    """Fail when a batch's label mix differs too much from the earlier one.

    `batch`, `earlier`: (K,) counts, each with a sum above 0. The value is the total variation distance (half the L1
    distance) of the two mixes. Even a batch drawn from the earlier mix has a positive distance, and a larger one the
    smaller the batch. So the lower bound decides: the distance less the 99 % quantile of how far a sample of that size
    strays from its own mix.
    """
    mix = batch / batch.sum()
    distance = np.abs(mix - earlier / earlier.sum()).sum() / 2
    size = int(batch.sum())
    strays = np.abs(np.random.default_rng(0).multinomial(size, mix, DRAWS) / size - mix).sum(axis=1) / 2
    low = max(distance - np.quantile(strays, 0.99), 0.0)
    detail = f"the label mix differs by {distance:.2f} (total variation; at least {low:.2f} of it is not chance)"
    detail += f" from the data before it, at most {most:g} expected"
    return _check("prior_change", low <= most, distance, most, detail, low)


def class_names(train: Mapping[str, int], given: Sequence[str] | None, least: int) -> list[str]:
    """The K classes: `given` (data.classes) unchanged, else every label with at least `least` training rows, sorted.

    `train`: label -> labelled training rows.
    """
    return list(given) if given is not None else sorted(name for name, count in train.items() if count >= max(least, 1))


def class_support(
    counts: Mapping[str, Mapping[str, int]], classes: Sequence[str], least: Mapping[str, int], min_classes: int
) -> list[Check]:
    """Fail for too few classes, or too few images of a class in a split. `counts`: split -> label -> rows."""
    found = len(classes)
    checks = [_check("classes", found >= min_classes, found, min_classes, f"{found} classes {list(classes)[:12]}")]
    if found < min_classes:
        seen = {name: count for name, count in counts.get("train", {}).items() if name not in classes}
        few = dict(list(seen.items())[:12])
        more = f" and {len(seen) - len(few)} more" if len(seen) > len(few) else ""
        short = f"; labels with too few training rows: {few}{more}" if seen else ""
        checks[0] = checks[0].model_copy(
            update={"detail": f"{checks[0].detail}, at least {min_classes} expected{short}"}
        )
    for split in SPLITS:
        for name in classes:
            count, wanted = counts.get(split, {}).get(name, 0), least.get(split, 0)
            checks.append(
                _check(
                    f"support.{split}.{name}",
                    count >= wanted,
                    count,
                    wanted,
                    f"class {name!r} has {count:,} images in the split {split}, at least {wanted:,} expected",
                )
            )
    return checks


def values_seen(column: str, values: int, of: int) -> Check:
    """Fail when a column that an expectation reads is empty: every expectation would hold."""
    detail = f"column {column!r} has a value in {values:,} of {of:,} rows, at least 1 expected"
    return _check(f"values.{column}", values > 0, values, 1, detail)


def expectations(count: int, checked: int) -> Check:
    """Fail when the suite is empty or one of its expectations was not evaluated."""
    detail = f"{checked} expectations evaluated, {max(count, 1)} expected"
    return _check("expectations", checked == count > 0, checked, max(count, 1), detail)
