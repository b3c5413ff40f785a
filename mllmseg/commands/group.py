"""Groups of commands one of which may be left out."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class DefaultCommand(TyperGroup):
    """A group whose command `run` is meant where the first word names none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where it is left out."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)
