"""An empty argument, of any command, is refused with a sentence that names it."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from blockstore.cli.main import COMMANDS
from tests.cli.runner import invoke
from tests.daemon.lab import one_line


def commands() -> Iterator[tuple[list[str], click.Command]]:
    for name, entry in COMMANDS.items():
        command = entry.load()
        yield [name], command
        if isinstance(command, click.Group):
            yield from (([name, inner], each) for inner, each in command.commands.items())


def takes_text(parameter: click.Parameter) -> bool:
    if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count):
        return False
    return parameter.type is not click.UNPROCESSED


CASES = [
    pytest.param(words, command, parameter, id="-".join((*words, str(parameter.name))))
    for words, command in commands()
    for parameter in command.params
    if takes_text(parameter)
]


@pytest.mark.parametrize(("words", "command", "empty"), CASES)
def test_an_empty_argument_is_named(words: list[str], command: click.Command, empty: click.Parameter) -> None:
    arguments = [("" if each is empty else "1") for each in command.params if isinstance(each, click.Argument)]
    option = [empty.opts[0], ""] if isinstance(empty, click.Option) else []
    one_line(invoke(*words, *option, *arguments), 2, empty.get_error_hint(click.Context(command)), "it is empty")
    if option:
        one_line(invoke(*words, f"{empty.opts[-1]}=", *arguments), 2, empty.opts[-1], "it is empty")


def test_some_of_many_are_empty() -> None:
    one_line(invoke("evict", "mnt", "vm1", "", "vm2"), 2, "NAMES", "it is empty")
    one_line(invoke("disks", "--mount", "mnt", "--mount", "", "folder"), 2, "--mount", "it is empty")


def test_a_program_may_have_empty_arguments() -> None:
    result = invoke("run", "vm1", "--memory", "1G", "--mount", "nowhere", "--", "qemu-system-x86_64", "-append", "")
    one_line(result, 1, "nowhere is not a blockstore mount")
