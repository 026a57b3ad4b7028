"""Write the table of all recorded figures into docs/benchmarks/README.md: `python -m benchmarks.table`.

A test compares the page with the JSON files, so no figure on it is typed by hand.
"""

from benchmarks.record import FOLDER, Figure
from tasks.common.files import atomic_path, read_json

START, END = "<!-- figures -->", "<!-- end of figures -->"


def table() -> str:
    """The figures of docs/benchmarks/*.json as a Markdown table, one line per figure."""
    lines = ["| figure | measured | goal | met | against | spread | command |", "|---|---|---|---|---|---|---|"]
    for file in sorted(FOLDER.glob("*.json")):
        for entry in read_json(file):
            figure = Figure(**{key: entry[key] for key in Figure.model_fields})
            sign = "≥" if figure.better == "higher" else "≤"
            goal = "" if figure.goal is None else f"{sign} {figure.goal:g}"
            met = {None: "", True: "yes", False: "**no**"}[figure.met]
            cells = (
                f"`{figure.name}`",
                f"{figure.value:.4g} {figure.unit}",
                goal,
                met,
                figure.peer,
                figure.spread,
                f"`{entry['command']}`",
            )
            lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def page(old: str) -> str:
    """`old` with its table replaced."""
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def write() -> None:
    """Renew the table of docs/benchmarks/README.md."""
    readme = FOLDER / "README.md"
    text = page(readme.read_text(encoding="utf-8"))
    with atomic_path(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
