"""Which labels of a source become annotations; images that one source labels in two ways."""

from tasks.common.files import content_key
from tasks.common.text import one_line
from tasks.ingest.existing import ExistingSamples
from tasks.ingest.found import Label, NewImage, Reading, Vote


class Contradictions:
    """New images that a source names several times with different labels, without saying who gave them.

    None of these labels is believed: the image is taken without a label, and each of them becomes a vote.
    """

    def __init__(self):
        self._labels: dict[int, list[Label]] = {}  # row of Reading.new -> its labels

    def note(self, row: int, first: NewImage, label: Label) -> None:
        """Compare the `label` of a later row with that of the `first` one."""
        if first.named or first.label is None or label is None:
            return
        known = self._labels.get(row, [first.label])
        if label not in known:
            self._labels[row] = [*known, label]

    def settle(self, reading: Reading, votes: list[Vote]) -> list[Vote]:
        """Take the labels away from these images; returns the votes with one for each of these labels."""
        if not self._labels:
            return votes
        images = {}
        for row, labels in self._labels.items():
            new = reading.new[row]
            images[new.image] = [Vote(new.number, new.image, label, None, None) for label in labels]
            new.label, new.content = None, content_key([new.content, "contradiction"])[:16]
        return [
            *(vote for vote in votes if vote.image not in images),
            *(vote for found in images.values() for vote in found),
        ]

    def notes(self, reading: Reading) -> list[str]:
        """What was found, for people."""
        taken = [(reading.new[row], labels) for row, labels in sorted(self._labels.items()) if reading.new[row].taken]
        if not taken:
            return []
        new, labels = taken[0]
        said = " and ".join(label if isinstance(label, str) else "|".join(label) for label in labels)
        count = "1 image is" if len(taken) == 1 else f"{len(taken)} images are"
        return [
            f"note: {count} in the source with contradictory labels (e.g. {one_line(new.where)}: {one_line(said)}): "
            "taken without label until a person decides (`evergreen queue --issues`)"
        ]


def new_annotations(reading: Reading, votes: list[Vote], existing: ExistingSamples) -> list[dict]:
    """Votes that add something new.

    Of a reviewer: a label that differs from this reviewer's last one. Else: one that this annotator has not given to
    the image yet, retracted or not.
    """
    refused = {refused.number for refused in reading.refused}
    votes = [vote for vote in votes if vote.number not in refused]
    review, production = reading.settings.kind == "review", reading.settings.kind == "production"
    earlier: dict[tuple[str, str | None], list] = {}
    for row in existing.annotations({vote.image for vote in votes}):
        if (row["role"] == "reviewer") == review and not row["retracts"]:
            earlier.setdefault((row["id"], row["annotator"]), []).append(row["label"])
    added = []
    for vote in votes:
        said = earlier.setdefault((vote.image, vote.annotator), [])
        if vote.label in (said[-1:] if review else said):
            continue
        said.append(vote.label)
        added.append(
            {
                "id": vote.image,
                "label": vote.label,
                "exclude": False,
                "annotator": vote.annotator,
                "role": "reviewer" if review else "annotator" if production else "import",
                "at": vote.at,
                "why": "",
                "model_version": None,
                "retracts": None,
            }
        )
    return added
