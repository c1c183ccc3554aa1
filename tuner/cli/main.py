"""The `fastface-tuner` command: its subcommands, and how errors a user can mend are shown."""

import os
import sys

import typer

from tuner.cli import (
    best,
    check_workload,
    compare,
    confirm,
    doctor,
    evaluate,
    recipes,
    replay,
    report,
    scale,
    spaces,
    stages,
    status,
    sweep,
    sync,
    train,
    ui,
)
from tuner.errors import SweepStoppedError, UserError

_INTERRUPTED = (130, 143)
"""Exit statuses after Ctrl-C and SIGTERM."""

app = typer.Typer(
    name="fastface-tuner",
    help="Find the right FastFace learning-rate schedule with as few GPU hours as possible.",
    epilog="Example: fastface-tuner sweep fastface --data synthetic --trials 12",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(sweep.sweep)
app.command()(sweep.resume)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(status.status)
app.command()(compare.compare)
app.command()(confirm.confirm)
app.command()(report.report)
app.command()(best.best)
app.command()(ui.ui)
app.command()(sync.sync)
app.command()(spaces.spaces)
app.command()(recipes.recipes)
app.command()(doctor.doctor)
app.command()(check_workload.check_workload)
app.command()(replay.replay)
app.command()(scale.scale)
app.add_typer(stages.app, name="stages")


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and exit status 2, a stopped sweep 1."""
    try:
        app()
    except (UserError, SweepStoppedError) as error:
        print(f"fastface-tuner: {_one_line(str(error))}", file=sys.stderr)  # noqa: T201 - the one place that does
        sys.exit(2 if isinstance(error, UserError) else 1)
    except SystemExit as ending:
        if ending.code in _INTERRUPTED:
            # All is closed, and someone waits: taking the interpreter and its libraries apart can take seconds.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ending.code)
        raise


def _one_line(text: str) -> str:
    """Return a text with line breaks and control characters written out: names of files may hold any."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


if __name__ == "__main__":
    main()
