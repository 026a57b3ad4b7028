"""Values that are not there: missing or not finite, and images that could not be read. Findings of their own: what is
left of a column must not pass for the whole of it."""

from monitoring.contracts import Finding
from monitoring.drift import wording


def judge(name: str, lost: int, rows: int, lost_before: int, rows_before: int, level: float, detail: str) -> Finding:
    """Are `lost` of `rows` more than `lost_before` of `rows_before` lead to expect? Fisher's exact test, one-sided."""
    from scipy.stats import hypergeom

    p = float(hypergeom.sf(lost - 1, rows + rows_before, lost + lost_before, rows)) if lost else 1.0
    return Finding(
        name=name,
        status="drifted" if p < level else "ok",
        value=lost / rows,
        threshold=_bound(rows, lost_before, rows_before, level),
        p_value=p,
        detail=f"{detail} (was {wording.percent(lost_before / rows_before)})",
    )


def _bound(rows: int, lost_before: int, rows_before: int, level: float) -> float:
    """The largest share of `rows` that is no drift."""
    from scipy.stats import hypergeom

    low, high = 0, rows  # the p-value falls as more is lost
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.sf(middle - 1, rows + rows_before, middle + lost_before, rows) >= level:
            low = middle
        else:
            high = middle - 1
    return max(low, 0.5) / rows
