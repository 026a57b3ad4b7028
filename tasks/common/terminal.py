"""A terminal that obeys nobody but us: control characters in names and messages are shown, not sent.

Names of classes, files and sources come from strangers. An escape sequence in one could rewrite what was printed, set
the clipboard, or make the terminal type an answer.
"""

import re
import sys
from typing import Any

# what our own libraries send: colours, and rich's progress line
OWN = r"\x1b\[[0-9;]*m|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh]|\r(?=\x1b\[2K)|\r\n"
FOREIGN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
PART = re.compile(f"({OWN})|({FOREIGN})")


def shown(text: str) -> str:
    """`text` with every control and direction character as its escape, but for colours and the progress line."""
    return PART.sub(lambda found: found[1] or found[2].encode("unicode_escape").decode(), text)


class Terminal:
    """A text stream that passes `shown` text to `stream`."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_terminal() -> None:
    """Let standard output and error of this process show control characters instead of sending them."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), Terminal):
            setattr(sys, name, Terminal(stream))
