"""Bounds for YAML that a person wrote, checked before it is parsed.

YAML's C parser ends the process with a segmentation fault on 100,000 open brackets, and takes minutes to come there. A
few lines of anchors that name each other stand for billions of values. Events are read one by one until a bound is
passed, so such a text costs milliseconds.
"""

import yaml

BYTES = 1 << 20
DEPTH = 50  # levels of nesting; params.yaml and dvc.yaml have six
VALUES = 100_000  # with aliases written out


def bound_passed(text: str) -> str | None:
    """Which bound `text` passes, as a sentence; None if it is within them, or is not YAML at all."""
    if len(text) > BYTES:
        return f"it has {len(text)} characters, more than {BYTES} are not read"
    counts, sizes, names = [0], {}, [None]  # of values in each open collection, by anchor, anchor of each collection
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.CollectionStartEvent):
                counts.append(1)
                names.append(event.anchor)
                if len(counts) > DEPTH:
                    return f"line {event.start_mark.line + 1}: nested more than {DEPTH} levels deep"
            elif isinstance(event, yaml.CollectionEndEvent):
                size = counts.pop()
                sizes[names.pop()] = size
                counts[-1] += size
            elif isinstance(event, yaml.AliasEvent):
                counts[-1] += sizes.get(event.anchor, 1)
            elif isinstance(event, yaml.ScalarEvent):
                counts[-1] += 1
            if counts[-1] > VALUES:
                return f"line {event.start_mark.line + 1}: its anchors stand for more than {VALUES} values"
    except (yaml.YAMLError, ValueError):  # the parser says what is wrong
        pass
    return None
