"""Judge missing values and unreadable images.

The remaining values of a column must not pass for all of it.
"""

from monitoring.contracts import Finding
from monitoring.drift import wording


def judge_missing(
    name: str, lost: int, rows: int, lost_before: int, rows_before: int, level: float, detail: str
) -> Finding:
    """Judge whether more of `rows` are lost than in the reference: Fisher's exact test, one-sided.

    level: p-values below it are drift.
    """
    from scipy.stats import hypergeom

    p = float(hypergeom.sf(lost - 1, rows + rows_before, lost + lost_before, rows)) if lost else 1.0
    return Finding(
        name=name,
        status="drifted" if p < level else "ok",
        value=lost / rows,
        threshold=_threshold(rows, lost_before, rows_before, level),
        p_value=p,
        detail=f"{detail} (was {wording.percent(lost_before / rows_before)})",
    )


def _threshold(rows: int, lost_before: int, rows_before: int, level: float) -> float:
    """The largest share of `rows` that is not drift."""
    from scipy.stats import hypergeom

    low, high = 0, rows  # the p-value falls as more values are lost
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.sf(middle - 1, rows + rows_before, middle + lost_before, rows) >= level:
            low = middle
        else:
            high = middle - 1
    return max(low, 0.5) / rows
