"""Find the part of file names that names an object or track, as a layout ready to use.

Names alone prove nothing: 00017_00003.jpg may be track and frame, or two numbers. So every way to read a group from
the names is tested on the images: are two images of one group more alike than one of them and an image of the same
class from another group? Random names and plain counters have no part that images share, and propose nothing.

N is the number of images; `features` (N, F) are any description of what they look like (thumbnails, embeddings).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.siblings.alike import Alikeness, Looks, measure_alikeness
from tasks.sources.fields import SPLIT_WORDS, Unusable
from tasks.sources.layouts import SUFFIX, Layout, parse_layout

COVERAGE = 0.95  # of the paths a layout must fit; the others would be quarantined
SHARE = 0.2  # of the images that must have a sibling
LEAST_GROUPS = 5  # with at least two images
SHAPES = 3  # kinds of names that are looked at
MIXED = 0.1  # of the images may lie in groups of several classes without further question
MAX_PARTS = 8  # varying parts of a name; more are not names that people or cameras give
MIN_ALIKE = 0.75  # of sibling pairs must be more alike than a pair of the same class
MAX_P = 0.01
PIECES = re.compile(r"[0-9]+|[^\W\d_]+|[\W_]")


@dataclass(frozen=True)
class NamePattern:
    """A layout whose groups hold images that are alike, and the evidence."""

    template: str  # for --layout
    rows: int  # images looked at
    siblings: int  # of these, images that share their group with another
    groups: int  # with at least two images
    alike: float  # share of sibling pairs that are more alike than a pair of the same class
    p_value: float  # of `alike`, by shuffling the groups within classes

    def sentence(self) -> str:
        """The finding in one sentence."""
        return (
            f"{self.siblings} of {self.rows} images share an object, track or session with another, by their file "
            f"names: {self.groups} groups, {100 * self.alike:.0f} % of sibling pairs more alike than a pair of the "
            f"same class (p = {self.p_value:.2g})"
        )


def propose_layout(
    paths: Sequence[str], labels: Sequence[str | None], features: np.ndarray | Looks
) -> NamePattern | None:
    """The layout with the best-supported groups; None if no part of the names groups images that are alike.

    paths (N,) "/"-separated; labels (N,) class names. Deterministic.
    """
    labels = np.array(["" if label is None else label for label in labels], dtype=object)
    found = []
    for chain in candidate_layouts(paths, labels.tolist()):
        best, finer = None, None
        for template in chain:
            keys = group_keys(parse_layout(template), paths)
            if keys is None or not worth_a_test(keys):
                continue
            keys, template = joined_with_class(keys, template, labels, features)
            if template is None or not worth_a_test(keys):
                continue
            # a coarser group must add pairs that are alike, not only contain those of the finer one
            if not supported(evidence := measure_alikeness(keys, labels, features, apart=finer, least=MIN_ALIKE)):
                break
            best, finer = (template, keys, evidence if best is None else best[2]), keys
        if best is not None:
            found.append(_pattern(*best))
    return max(found, key=lambda pattern: (pattern.siblings * (pattern.alike - 0.5), pattern.template), default=None)


def has_candidates(paths: Sequence[str], labels: Sequence[str | None]) -> bool:
    """Could the names hold groups? Looks at names only, so that images need not be opened for counters."""
    known = np.array(["" if label is None else label for label in labels], dtype=object)
    chains = candidate_layouts(paths, known.tolist())
    keys = (group_keys(parse_layout(template), paths) for chain in chains for template in chain)
    return any(found is not None and worth_a_test(found) for found in keys)


def group_keys(layout: Layout, paths: Sequence[str]) -> np.ndarray | None:
    """The group (N,) that `layout` reads from each path, "" where it does not fit; None below COVERAGE."""
    keys = np.full(len(paths), "", dtype=object)
    for row, path in enumerate(paths):
        try:
            keys[row] = layout.read(path).get("group", "")
        except Unusable:
            continue
    return keys if np.mean(keys != "") >= COVERAGE else None


def worth_a_test(keys: np.ndarray) -> bool:
    """Do the groups `keys` (N,), "" for none, hold enough images with a sibling?"""
    counts = Counter(keys[keys != ""].tolist())
    several = [count for count in counts.values() if count > 1]
    return len(several) >= LEAST_GROUPS and sum(several) >= SHARE * len(keys)


def supported(evidence: Alikeness | None) -> bool:
    """Are siblings clearly more alike than other images of their class?"""
    return evidence is not None and evidence.share >= MIN_ALIKE and evidence.p_value <= MAX_P


def joined_with_class(
    keys: np.ndarray, template: str, labels: np.ndarray, features: np.ndarray | Looks
) -> tuple[np.ndarray, str | None]:
    """Numbers are often counted per class: groups of several classes are divided unless their images are alike.

    The template is None if it would have to be divided and does not name the class.
    """
    classes = defaultdict(set)
    for key, label in zip(keys, labels, strict=True):
        classes[key].add(label)
    mixed = sum(key != "" and len(classes[key]) > 1 for key in keys)
    if mixed <= MIXED * len(keys):  # a few wrong labels
        return keys, template
    across = measure_alikeness(keys, np.zeros(len(keys), int), features, apart=labels, least=MIN_ALIKE)
    if supported(across):
        return keys, template
    if "{class}" not in template:
        return keys, None
    joined = np.array([f"{label}/{key}" if key else "" for key, label in zip(keys, labels, strict=True)], dtype=object)
    return joined, template.replace("{class}", "{class+group}")


def _pattern(template: str, keys: np.ndarray, evidence: Alikeness) -> NamePattern:
    several = [count for key, count in Counter(keys.tolist()).items() if key and count > 1]
    return NamePattern(template, len(keys), sum(several), len(several), evidence.share, evidence.p_value)


def candidate_layouts(paths: Sequence[str], labels: Sequence[str]) -> Iterator[list[str]]:
    """Chains of templates with {group}, each chain from the finest groups to the coarsest."""
    split = [path.split("/") for path in paths]
    if not split:
        return
    depth, _ = Counter(map(len, split)).most_common(1)[0]
    rows = [row for row, names in enumerate(split) if len(names) == depth]
    if len(rows) < COVERAGE * len(split):
        return
    folders = [_folder([split[row][at] for row in rows], [labels[row] for row in rows]) for at in range(depth - 1)]
    if folders.count("{class}") > 1:  # the class twice: one of them is enough
        last = len(folders) - 1 - folders[::-1].index("{class}")
        folders = ["{*}" if name == "{class}" and at != last else name for at, name in enumerate(folders)]
    stems = [(SUFFIX.sub("", split[row][-1]), labels[row]) for row in rows]
    shapes = Counter(_shape(stem) for stem, _ in stems)
    seen = set()
    for shape, count in shapes.most_common(SHAPES):
        if count < max(2, 0.05 * len(rows)):
            continue
        name = _name([one for one in stems if _shape(one[0]) == shape], classed="{class}" in folders)
        if name is None:
            continue
        for chain in _chains(folders, *name):
            chain = [template for template in chain if template not in seen]
            seen.update(chain)
            if chain:
                yield chain


def _folder(names: Sequence[str], labels: Sequence[str]) -> str:
    """The field of a folder: {class}, {split}, {*} if it is always the same, or "" if it may name a group."""
    if sum(map(str.__eq__, names, labels)) >= COVERAGE * len(names):
        return "{class}"
    distinct = set(names)
    if len(distinct) == 1:
        return "{*}"
    return "{split}" if all(name.lower() in SPLIT_WORDS for name in distinct) else ""


def _shape(stem: str) -> tuple[str, ...]:
    """Digits and letters as their kind, separators as they are: cam2_0007 has the shape (A, 9, _, 9)."""
    return tuple(
        "9" if piece[0].isascii() and piece[0].isdigit() else "A" if piece.isalpha() else piece
        for piece in PIECES.findall(stem)
    )


def _name(stems: Sequence[tuple[str, str]], classed: bool) -> tuple[list[str], list[str]] | None:
    """(literals, fields) of names of one shape: "" stands for a field that varies, {class} and {*} for the others.

    There is one literal more than there are fields. None if the name does not vary in parts that can be told apart.
    """
    firsts = PIECES.findall(stems[0][0])
    varies, classes = [False] * len(firsts), [0] * len(firsts)
    for stem, label in stems:  # one by one: the pieces of all names would take much memory
        for at, (piece, first) in enumerate(zip(PIECES.findall(stem), firsts, strict=True)):
            varies[at] |= piece != first
            classes[at] += piece == label
    literals, fields = [""], []
    for first, varied, labelled in zip(firsts, varies, classes, strict=True):
        if not varied and not first.isdigit():
            literals[-1] += first.replace("{", "{{").replace("}", "}}")
        elif fields and not literals[-1]:  # letters next to digits: one field
            fields[-1] = ""
        else:
            is_class = varied and labelled >= COVERAGE * len(stems)
            fields.append(("{*}" if classed else "{class}") if is_class else "")
            literals.append("")
    return (literals, fields) if 1 <= len(fields) <= MAX_PARTS else None


def _chains(folders: list[str], literals: list[str], fields: list[str]) -> Iterator[list[str]]:
    """Groups by ever fewer of the leading parts; then by one part alone."""
    parts = [*folders, *fields]
    free = [at for at, field in enumerate(parts) if field == ""]
    yield [_template(parts, set(free[:count]), len(folders), literals) for count in range(len(free) - 1, 0, -1)]
    for at in free[1:]:
        yield [_template(parts, {at}, len(folders), literals)]


def _template(parts: list[str], grouped: set[int], folders: int, literals: list[str]) -> str:
    written = ["{group}" if at in grouped else part or "{*}" for at, part in enumerate(parts)]
    fields, seams = written[folders:], list(literals)
    while len(fields) > 1 and fields[0] == fields[1] == "{group}":  # the first field takes longer names too
        del fields[0], seams[1]
    name = seams[0] + "".join(field + literal for field, literal in zip(fields, seams[1:], strict=True))
    return "/".join([*written[:folders], name])
