"""The command `blockstore`: the table of its subcommands, and what becomes of errors.

A new subcommand is one module and one line in COMMANDS. Only the module of the command that runs is imported,
so that `analyze` works where there is no libfuse, and starts fast.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

from blockstore import version
from blockstore.cli.empty_arguments import CheckedGroup
from blockstore.cli.output import complain, say
from blockstore.cli.streams import insist_on_utf8, open_standard_streams, print_in_the_locale
from blockstore.errors import BlockstoreError, MountError

INTERRUPTED_EXIT_CODE: Final = 130
"""128 + SIGINT, as shells have it."""


class Entry(NamedTuple):
    """Where a subcommand is in blockstore.cli ("module:attribute"), and its line in `blockstore --help`."""

    place: str
    summary: str

    def load(self) -> click.Command:
        """Imports its module. Raises ImportError when that, or something that it needs, is not there."""
        module, _, attribute = self.place.partition(":")
        command = getattr(import_module(f"blockstore.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


COMMANDS: Final = {
    "mount": Entry("mounts.mount:mount", "Serve VM memory files in a directory."),
    "umount": Entry("mounts.umount:umount", "End a mount, without losing a block."),
    "status": Entry("watch.status:status", "What a mount saves, by VM and mechanism, and what it costs."),
    "report": Entry("watch.report:report", "A page about a mount: where the memory is, and was."),
    "top": Entry("watch.top:top", "Watch a mount, live: its VMs, faults and savings."),
    "set": Entry("mounts.set:set_options", "Change the limits of a running mount."),
    "verify": Entry("mounts.verify:verify", "Check that everything stored is whole; mend what can be."),
    "reload": Entry("mounts.reload:reload", "Replace the daemon by the code that is installed now."),
    "run": Entry("vms.run:run", "Start a VM whose memory is a file of a mount."),
    "attach": Entry("vms.attach:attach", "Hold the resident part of a running VM down."),
    "snapshot": Entry("vms.snapshot:snapshot", "Keep a running VM as it is now; it goes on."),
    "snapshots": Entry("vms.snapshots:snapshots", "List, delete, export and import snapshots."),
    "push": Entry("vms.push:push", "Put a snapshot where other hosts can get it."),
    "pull": Entry("vms.pull:pull", "Make a snapshot of one that another host has pushed."),
    "restore": Entry("vms.restore:restore", "Start a VM from a snapshot."),
    "fork": Entry("vms.fork:fork", "Start many VMs that go on from where one is now."),
    "console": Entry("guests.console:console", "Talk to the console of a VM in the background."),
    "exec": Entry("guests.exec:execute", "Run a command in a guest, by its agent."),
    "stop": Entry("guests.stop:stop", "Shut VMs down, or end them at once."),
    "wait": Entry("guests.wait:wait", "Wait until VMs have ended."),
    "disks": Entry("vms.disks:disks", "List overlays of VMs' disks; delete those that nothing needs."),
    "evict": Entry("vms.evict:evict", "Move memory of VMs out of the page cache into the store."),
    "analyze": Entry("mounts.analyze:analyze", "What the store would save on memory images, without a mount."),
}


class LazyGroup(CheckedGroup):
    """A group that knows its subcommands from COMMANDS and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            return entry.load()
        except ImportError as error:
            raise BlockstoreError(
                f"`blockstore {cmd_name}` cannot be loaded: {error}; install what is missing "
                "(on Debian: apt-get install fuse3 libfuse3-3), then install blockstore from its sources again"
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=entry.summary) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _print_version(ctx: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:
    """Looked up only when asked for: that takes as long as many commands take."""
    if is_wanted and not ctx.resilient_parsing:
        say(f"blockstore, version {version()}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
def cli() -> None:
    """Memory for virtual machines that costs less than memory.

    A mounted directory holds the memory of VMs, one file each. Blocks of 4 KiB that are alike are kept once,
    similar ones as a patch, all others compressed.

    \b
    Example:
      blockstore analyze /var/tmp/*.ram        what would it save here?
      blockstore mount /run/vm-memory          serve
      blockstore run vm1 --memory 2G -- qemu-system-x86_64 -nographic disk.qcow2
      blockstore fork vm1 --count 20           one booted VM becomes twenty
      blockstore status /run/vm-memory         what does it save?
      blockstore top                           and now?

    \b
    Exit codes:
      0    done
      1    a mount cannot be made, reached or ended; any other failure
      2    bad input: an option, a path, a size, an image
      3    in use, by another mount or by a process with open files
      4    the state directory is damaged, foreign, of another version, or was deleted under the mount
      5    out of room: the pool limit or the file system under the state
      6    a stored block is corrupt
      130  interrupted

    \b
    Shell completion (bash; for zsh and fish put zsh_source or fish_source):
      eval "$(_BLOCKSTORE_COMPLETE=bash_source blockstore)"
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code. An error that is written for the user is one line on stderr."""
    open_standard_streams()
    print_in_the_locale()
    try:
        result = cli.main(arguments, prog_name="blockstore", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BlockstoreError as error:
        complain(str(error))
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "blockstore"
        complain(f"{error.format_message().rstrip('.')}; see {command} --help")
        return error.exit_code
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_EXIT_CODE
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO) or error.filename:
            raise
        # Whoever reads our output has gone, or has no room for it. Nobody may flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            complain(f"the output cannot be written: {error.strerror}")
        return 1


def run() -> NoReturn:
    """`main` for the shell. The process ends without taking down what Python has loaded, for which whoever waits for a
    fork would wait 40 ms."""
    insist_on_utf8()
    code = main()
    if code and holds_mount():
        code = MountError.exit_code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # `main` has said so
            stream.flush()
    os._exit(code)


def holds_mount() -> bool:
    """Returns whether systemd has kept a mount for this process (sd_listen_fds(3)). A start that fails, of whatever, is
    to be tried again then: to give up would end the mount, and the VMs on it."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and bool(os.environ.get("LISTEN_FDS"))
