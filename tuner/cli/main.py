"""The `fastface-tuner` command: its subcommands, and how errors a user can mend are shown."""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

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


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"fastface-tuner {version('fastface-tuner')}")
        raise typer.Exit


@app.callback()
def _tool(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None: ...


app.command(short_help="Search a scheduler's hyperparameters, trial after trial.")(sweep.sweep)
app.command(short_help="Go on with a sweep where it was, however it ended.")(sweep.resume)
app.command(short_help="Train one configuration to its end.")(train.train)
app.command(short_help="Score a trained backbone.")(evaluate.evaluate)
app.command(short_help="Show where a sweep stands, whether it runs or not.")(status.status)
app.command(short_help="Show trials, best first, or sweeps side by side.")(compare.compare)
app.command(short_help="Train the best settings again with new seeds.")(confirm.confirm)
app.command(short_help="Write what a sweep found as one HTML page.")(report.report)
app.command(short_help="Print the best setting, to train with.")(best.best)
app.command(short_help="Open MLflow's UI on a sweep.")(ui.ui)
app.command(short_help="Send to MLflow what it lacks of a sweep or a run.")(sync.sync)
app.command(short_help="List the shipped search spaces, or print one.")(spaces.spaces)
app.command(short_help="List the shipped recipes of published runs.")(recipes.recipes)
app.command(short_help="Look at data before training on it.")(doctor.doctor)
app.command("check-workload", short_help="Say whether a workload may share training steps.")(
    check_workload.check_workload
)
app.command(short_help="Show what a scheduler makes of a recorded loss.")(replay.replay)
app.command(short_help="Write a scheduler's setting for a run of another length.")(scale.scale)
app.add_typer(stages.app, name="stages", short_help="Show or clean up the training steps that trials share.")


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and exit status 2, a stopped sweep 1."""
    try:
        status = app(standalone_mode=False)
    except (UserError, SweepStoppedError) as error:
        _fail(_one_line(str(error)), status=2 if isinstance(error, UserError) else 1)
    except TyperException as error:
        said = error.format_message()
        if "\n" in said:  # nothing was asked for: the help
            print(said, file=sys.stderr)  # noqa: T201
            sys.exit(error.exit_code)
        _fail(_usage(error, sys.argv[1:]), status=error.exit_code)
    except SystemExit as ending:
        status = ending.code
    if status in _INTERRUPTED:
        # All is closed, and someone waits: taking the interpreter and its libraries apart can take seconds.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _fail(line: str, *, status: int) -> NoReturn:
    print(f"fastface-tuner: {line}", file=sys.stderr)  # noqa: T201 - the one place that does
    sys.exit(status)


def _usage(error: TyperException, words: Sequence[str]) -> str:
    """Return in one line what is wrong with the words of a command line, and where it says what can be given."""
    context, said = getattr(error, "ctx", None), error.format_message().rstrip(".").replace("Value error, ", "")
    got = ""
    for name in getattr(getattr(error, "param", None), "opts", ()):
        for word, after in pairwise([*words, ""]):
            if word == name or word.startswith(f"{name}="):
                got = repr(after if word == name else word.removeprefix(f"{name}="))
    value = f", but got {got}" if got and got not in said else ""
    command = "fastface-tuner" if context is None else context.command_path
    rule = said.replace(": Input", ": input").replace(". Did", "; did")
    rule = rule[:1].lower() + rule[1:]
    return _one_line(f"{rule}{value}; see {command} --help")


def _one_line(text: str) -> str:
    """Return a text with line breaks and control characters written out: names of files may hold any."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


if __name__ == "__main__":
    main()
