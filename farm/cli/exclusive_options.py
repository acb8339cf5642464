"""Options that have no effect beside another one: they are refused, not ignored."""

from __future__ import annotations

from collections.abc import Iterable

import typer


def refuse_beside(context: typer.Context, option: str, others: Iterable[str]) -> None:
    """Raise BadParameter if a parameter of these names was typed beside an option, which makes it meaningless."""
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for other in others:
        source = context.get_parameter_source(other)
        if source and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"it has no effect beside {option}; leave out one of the two.", param_hint=f"'{names[other]}'"
            )
