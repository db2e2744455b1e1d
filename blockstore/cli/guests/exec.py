"""`blockstore exec`: a command in a guest."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from blockstore.cli.output import warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.host import mounts
from blockstore.vm.guest.agent import Agent, path_of
from blockstore.vm.qemu import running


# No -h: it would be found in the command, where the -- before it is forgotten.
@click.command(name="exec", context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("name")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, mountpoint: Path | None, command: tuple[str, ...]) -> int:
    """Run COMMAND in the guest of the VM NAME, by its guest agent (qemu-guest-agent), and end with its exit code.

    What it writes is printed when it has ended; the agent keeps 16 MiB of it. COMMAND is no line for a shell.

    \b
    Example:
      blockstore exec vm2 -- uname -r
      blockstore exec vm2 -- sh -c 'date --set=@'$(date +%s)
    """
    mount = mounts.find(mountpoint)
    vm = running.find(mount, name, None)
    agent = Agent(path_of(vm), name)
    try:
        done = agent.run(command)
    finally:
        agent.close()
    sys.stdout.flush()
    sys.stdout.buffer.write(done.output)
    sys.stdout.buffer.flush()
    sys.stderr.flush()
    sys.stderr.buffer.write(done.errors)
    sys.stderr.buffer.flush()
    if done.is_cut:
        warn("the output was longer than the guest agent keeps; its end is missing")
    return done.code
