"""Text from elsewhere, made safe for the terminal."""


def for_terminal(text: str) -> str:
    """Make untrusted `text` safe for the terminal: escape control and bidirectional characters, shorten it."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 240 else f"{shown[:100]} ... {shown[-130:]}"
