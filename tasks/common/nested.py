"""Nested mappings as flat ones, so that settings and metrics can be listed and compared by path."""

from typing import Any


def flatten(value: Any, separator: str = ".", path: str = "") -> dict[str, Any]:
    """Nested mappings as {"a.b.c": leaf}. Lists and empty mappings inside are leaves; None and {} give {}."""
    if isinstance(value, dict) and value:
        parts = (
            flatten(leaf, separator, f"{path}{separator}{key}" if path else str(key)) for key, leaf in value.items()
        )
        return {name: leaf for part in parts for name, leaf in part.items()}
    return {path: value} if path else {}
