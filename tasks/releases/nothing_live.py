"""Says why no model is live yet: how the last run ended, and what to do."""

from tasks.releases.store import Releases

NONE_YET = "no model is live yet"


def nothing_live(releases: Releases) -> str:
    """One or more lines for a person who asked for the live model."""
    runs = releases.runs()
    if not runs:
        return f"{NONE_YET}: `evergreen retrain` makes and publishes the first one"
    run_id = list(runs)[-1]
    run = runs[run_id]
    text = f"{NONE_YET}: the last run ({run_id}) ended as {run['outcome']}. {run['sentence']}"
    todo = [remedy["text"] for remedy in run.get("remedies") or []]
    if todo:
        return "\n".join(
            [text, "What to do, the likeliest first:", *(f"  {n}. {one}" for n, one in enumerate(todo, 1))]
        )
    if run["outcome"] == "held":
        return text if "evergreen approve" in text else f"{text} `evergreen approve {run_id}` publishes it."
    if run["outcome"] == "refused":
        return f"{text} Correct the data, `evergreen ingest` it, then `evergreen retrain`."
    return (
        f'{text} `evergreen promote {run_id} --override --why "..."` publishes it as it is; new data or settings, '
        "then `evergreen retrain`, make another."
    )
