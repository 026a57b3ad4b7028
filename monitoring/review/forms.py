"""Write samples that wait for a label as a table, as tasks of Label Studio, and as a page."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from monitoring.review import label_studio, page, table
from monitoring.review.asked import Asked
from monitoring.review.page import Frame
from tasks.common.files import atomic_path, write_json

Shown = Iterable[tuple[Asked, bytes | None]]


@dataclass(frozen=True)
class Forms:
    """Where to write what: files that are None are not written."""

    csv: Path | None = None  # with the images in a folder of the same name
    label_studio: Path | None = None  # with the labelling interface next to it (.xml)
    html: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.csv, self.label_studio, self.html) if file is not None]

    @property
    def written(self) -> list[Path]:
        """The same, with what is written next to them: the table's folder of images, the labelling interface."""
        images = [self.csv.with_suffix("")] if self.csv else []
        return [*self.files, *images, *([self.label_studio.with_suffix(".xml")] if self.label_studio else [])]


def next_steps(forms: Forms, count: int, command: str, reviewer: bool = False) -> list[str]:
    """What to do with the files of `forms`, a line each; without files, how to get some for `count` samples.

    command: the `evergreen` command that writes them. reviewer: are the labels a reviewer's?
    """
    take = f"evergreen label {{}}{' --reviewer' if reviewer else ''}".format
    if not count:
        return []
    if not forms.files:
        return [f"next: `{command} --html queue.html` writes a page to label on (or --csv, --label-studio)"]
    lines = []
    if forms.csv:
        lines.append(f"next: fill in the column label, then `{take(forms.csv)}`")
    if forms.label_studio:
        interface = forms.label_studio.with_suffix(".xml").name
        lines.append(f"next: import it into Label Studio ({interface} is the interface), then `{take('EXPORT.json')}`")
    if forms.html:
        lines.append(f"next: open {forms.html.name} in a browser, save labels.csv there, then `{take('labels.csv')}`")
    return lines


def write(forms: Forms, count: int, images: Callable[[], Shown], frame: Frame) -> None:
    """Write `count` samples. images: yields them with their encoded images, once for each file."""
    multilabel, pixels = frame.multilabel, frame.max_pixels
    if forms.csv:
        table.write(forms.csv, images())
    if forms.label_studio:
        write_json(forms.label_studio, [label_studio.task(*found, pixels) for found in images()])
        with atomic_path(forms.label_studio.with_suffix(".xml")) as temporary:
            temporary.write_text(label_studio.config(frame.classes, multilabel, frame.guides), encoding="utf-8")
    if forms.html:
        page.write(forms.html, images(), count, frame)
