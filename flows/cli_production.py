"""The `evergreen` commands about production: score, review, monitor, webhook.

Only light imports at the top: every `evergreen` command loads this module.
"""

from collections.abc import Callable

COMMANDS: list[Callable] = []
