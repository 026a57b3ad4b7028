"""The `evergreen` commands about versions: releases, diff, rollback, approval, verify, gc, forget.

Only light imports at the top: every `evergreen` command loads this module.
"""

from collections.abc import Callable

COMMANDS: list[Callable] = []
