"""Show text that users give safely in sentences, tables, terminals and Markdown.

HTML is escaped where a page is made (Jinja's autoescape, markupsafe). Two functions stay with their only caller:
`flows.cli.main` shows control characters as escapes, so that a user recognises the text; `flows.services.webhook`
also defuses a template language. Text that is stored is the business of `tasks.common.cells`.
"""

import html
import re
from collections.abc import Iterable
from typing import Any


def join_names(names: Iterable[str], most: int = 5) -> str:
    """The first `most` names for a sentence, and how many more there are."""
    names = list(names)
    more = len(names) - most
    return ", ".join(one_line(name) for name in names[:most]) + (f" and {more} more" if more > 0 else "")


def one_line(text: str, most: int = 80) -> str:
    """`text` on one line, at most `most` characters: control and direction characters become spaces.

    The result is not escaped for HTML: the page that shows it does that.
    """
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def single_spaced(text: str) -> str:
    """`text` on one line, however long: each run of spaces, control and direction characters becomes one space."""
    return " ".join(one_line(text, len(text)).split())


def escape_markdown(text: Any) -> str:
    """`text` as one line of Markdown that shows exactly it: without markup, HTML, links or the end of a table cell."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~:@])", r"\\\1", html.escape(single_spaced(str(text)), quote=False))
