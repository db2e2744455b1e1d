"""Refuses arguments that are empty, of all commands: most come from a shell variable that is not set."""

from __future__ import annotations

import click


class CheckedGroup(click.Group):
    """A group whose subcommands take no empty path, name, size or other value."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            _refuse_empty(command.context_class(command, parent=ctx, info_name=name, **command.context_settings), rest)
        return name, command, rest


def _refuse_empty(ctx: click.Context, arguments: list[str]) -> None:
    """Raises click.BadParameter, which names the parameter. What is UNPROCESSED, the command line of a program, may
    have empty arguments."""
    values, _, _ = ctx.command.make_parser(ctx).parse_args(list(arguments))
    for parameter in ctx.command.params:
        value = values.get(str(parameter.name))
        given = value if isinstance(value, list | tuple) else [value]
        if "" in given and parameter.type is not click.UNPROCESSED:
            raise click.BadParameter("it is empty", ctx, parameter)
