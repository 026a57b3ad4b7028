"""Labels of the past in the class names of today, read through the taxonomy."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from tasks.labels.taxonomy import Taxonomy

Label = str | list[str] | None


def read_column(labels: pa.ChunkedArray, taxonomy: Taxonomy) -> pa.ChunkedArray:
    """`labels` (N,), strings or lists, in the names of today; an undecided or retired name stays as it is."""
    if not taxonomy.meaning or not len(labels):
        return labels
    lists = pa.types.is_list(labels.type)
    whole = labels.combine_chunks()
    names = (whole.flatten() if lists else whole).dictionary_encode()
    today = pa.array([name and taxonomy.rename(name) for name in names.dictionary.to_pylist()], pa.string())
    if today.equals(names.dictionary):
        return labels
    if not lists:
        return pa.chunked_array([today.take(names.indices)])
    read = [label and sorted({taxonomy.rename(name) for name in label}) for label in whole.to_pylist()]
    return pa.chunked_array([pa.array(read, labels.type)])


def read_votes(original: Label, rows: Sequence[dict], taxonomy: Taxonomy) -> tuple[Label, list[dict]]:
    """One sample's original label and the annotations that count, in the names of today.

    Where somebody said which part of a split class it is, all who gave the whole class are read as having said so.
    """
    if not taxonomy.meaning:
        return original, list(rows)
    original, *given = (_read_label(label, taxonomy) for label in (original, *(row["label"] for row in rows)))
    parts: dict[str, list[str]] = {}  # undecided name -> parts that the newest word for one of them names
    in_time = sorted(range(len(rows)), key=lambda row: (rows[row]["at"] is not None, rows[row]["at"]))
    for label in (given[row] for row in in_time):
        for name in {name for other in (original, *given) for name in names_of(other)}:
            if named := set(taxonomy.read(name).among).intersection(names_of(label)):
                parts[name] = sorted(named)
    original, *given = (_with_parts(label, parts) for label in (original, *given))
    return original, [{**row, "label": label} for row, label in zip(rows, given, strict=True)]


def _with_parts(label: Label, parts: Mapping[str, list[str]]) -> Label:
    if isinstance(label, str):
        return parts.get(label, [label])[0]
    return label if label is None else sorted({part for name in label for part in parts.get(name, [name])})


def is_decided(label: Label, taxonomy: Taxonomy) -> bool:
    """Whether no name in `label` waits for a person since a split."""
    return not any(taxonomy.read(name).among for name in names_of(label))


def names_of(label: Label) -> list[str]:
    """The class names of a label: one, any number (multi-label), none for null."""
    return [] if label is None else [label] if isinstance(label, str) else list(label)


def _read_label(label: Label, taxonomy: Taxonomy) -> Label:
    if isinstance(label, str):
        return taxonomy.rename(label)
    return label if label is None else sorted({taxonomy.rename(name) for name in label})


def is_supported(
    name: str, counts: Mapping[str, Mapping[str, int]], taxonomy: Taxonomy, least: Mapping[str, int]
) -> bool:
    """Whether class `name` has enough images in each split, and one in train.

    counts: split -> label -> images; least: split -> images, as validate.min_per_class.
    """
    inside = taxonomy.atoms(name)
    for split, of in counts.items():
        found = sum(count for label, count in of.items() if taxonomy.atoms(label) <= inside)
        if found < max(least.get(split, 0), 1 if split == "train" else 0):
            return False
    return True
