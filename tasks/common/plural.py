"""Numbers of things in a sentence."""


def counted(number: int, noun: str) -> str:
    """ "1 label", "1,200 labels"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
