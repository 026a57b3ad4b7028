"""All that a page says of two versions, computed once: differences and images that flipped.

Both depend on two commits, the classes of today and this code only, so the result is cached, unless something could
not be read: that may come back.
"""

from pathlib import Path

from flows.labels.class_reading import current_taxonomy
from flows.publishing.history import open_project
from flows.repo.objects import open_objects
from flows.versions.diff import Versions, chosen, compare
from flows.versions.flips import Flips, flips_between
from tasks.common.checks import Frozen
from tasks.common.code import code_version
from tasks.common.files import content_key
from tasks.common.paths import cache_dir, main_checkout
from tasks.common.sealed import read_sealed, write_sealed_json


class Comparison(Frozen):
    """Version `a` against version `b`."""

    versions: Versions
    flips: Flips


def compare_versions(root: Path, a: str | None = None, b: str | None = None) -> Comparison:
    """As `flows.versions.diff.diff`, with the images that flipped. Raises EvergreenError."""
    main = main_checkout(root)
    old, new = chosen(main, open_project(root)[1], a, b)
    taxonomy = current_taxonomy(main)
    meaning = sorted((name, sorted(map(list, atoms))) for name, atoms in taxonomy.meaning.items())
    code = code_version("flows.versions.comparison")
    file = cache_dir("comparisons", main) / f"{content_key(old, new, meaning, code)}.json"
    if (known := read_sealed(file)) is not None:
        return Comparison.model_validate_json(known)
    with open_objects(main) as objects:
        versions = compare(main, objects, old, new)
        found = Comparison(versions=versions, flips=flips_between(main, objects, (old[1], new[1]), taxonomy))
    if not found.versions.unreadable and not found.flips.why:
        write_sealed_json(file, found.model_dump(mode="json"))
    return found
