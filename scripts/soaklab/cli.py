"""Options of scripts/soak, and its report."""

from __future__ import annotations

import random
import sys

import click
from suitelab.command_line import exit_code_of

from soaklab.kill_loop import kill_loop
from soaklab.mounted import SoakError
from soaklab.soak import soak

KILLS = 200
WRITE_BACK_KILLS = 1000
STALL_TARGET_S = 1.5


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="For all kills together."
)
@click.option("--kills", type=click.IntRange(min=1), default=KILLS, show_default=True)
@click.option(
    "--write-back-kills",
    type=click.IntRange(min=0),
    default=WRITE_BACK_KILLS,
    show_default=True,
    help="Before these, under steady write-back and reads; about one a second.",
)
@click.option(
    "--stored", "stored_mib", type=click.IntRange(min=1), default=1024, show_default=True, help="MiB of memory."
)
@click.option("--seed", type=int, help="Of the kills and of the loads. Default: another one each time.")
def run(minutes: float, kills: int, write_back_kills: int, stored_mib: int, seed: int | None) -> int:
    """Kill the daemon at random moments under load, and check that nobody loses a byte or sees a signal.

    At first one process writes back without a pause and looks at every page afterwards, and another one reads what is
    not resident, while daemons live for 0.4 s at most. Then the loads are a guest that checks its own memory, fio
    --verify on a mapped file, a mapped file with a model beside it, names that are made, renamed and removed, and reads
    of cold blocks, whose longest wait is reported.

    \b
    Example:
      scripts/soak --minutes 30 --seed 7
    """
    seed = random.randrange(1 << 31) if seed is None else seed
    click.echo(f"seed {seed}")
    try:
        if write_back_kills and not _kill_under_write_back(write_back_kills, seed):
            return 1
        verdict = soak(kills, minutes * 60 / kills, stored_mib << 20, seed, lambda text: click.echo(f"# {text}"))
    except SoakError as error:
        click.echo(f"soak: {error}", err=True)
        return 1
    p50, p99 = verdict.stall_s(0.5), verdict.stall_s(0.99)
    click.echo(f"{verdict.kills} kills, {verdict.restarts} restarts: no wrong byte, no lost name, no signal")
    click.echo(f"stall per restart: p50 {p50:.2f} s, p99 {p99:.2f} s, longest {verdict.stall_s(1):.2f} s")
    click.echo(f"target: p99 under {STALL_TARGET_S} s: {'met' if p99 < STALL_TARGET_S else 'missed'}")
    click.echo(f"done meanwhile: {verdict.done}")
    return 0 if p99 < STALL_TARGET_S else 1


def _kill_under_write_back(kills: int, seed: int) -> bool:
    losses = kill_loop(kills, seed, lambda text: click.echo(f"# {text}"))
    click.echo(
        f"{losses.kills} kills under write-back and reads: {losses.lost_pages} pages lost, {losses.failed_writes} of "
        f"{losses.rounds} write-backs failed, {losses.failed_reads} of {losses.reads} reads failed"
    )
    return losses.is_none


def main() -> int:
    """Run it; the exit code."""
    return exit_code_of(run, "scripts/soak")


if __name__ == "__main__":
    sys.exit(main())
