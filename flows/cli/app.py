"""A typer app whose help shows no type behind options that are flags."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class _PlainFlags:
    """A flag takes no value: "<bool>" behind it reads as if it did."""

    def get_params(self, ctx: typer.Context) -> list:
        found = super().get_params(ctx)  # type: ignore[misc]
        for param in found:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return found


class Command(_PlainFlags, TyperCommand):
    """One command."""


class Group(_PlainFlags, TyperGroup):
    """A command with commands of its own."""


class App(typer.Typer):
    """An app whose commands and groups are of these kinds."""

    def __init__(self, **about: Any):
        super().__init__(cls=Group, **about)

    def command(self, name: str | None = None, **about: Any):
        """As typer's."""
        return super().command(name, **{"cls": Command} | about)
