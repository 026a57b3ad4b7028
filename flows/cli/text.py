"""Text from elsewhere, made safe for the terminal."""

SENTENCES = 2000  # characters: several sentences about names that are short already


def for_terminal(text: str, most: int = 240) -> str:
    """Make untrusted `text` safe for the terminal: escape control and bidirectional characters.

    Of a text longer than `most` the middle is left out: a name is short, a note for people (SENTENCES) is not.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= most else f"{shown[:100]} ... {shown[-130:]}"
