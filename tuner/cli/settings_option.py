"""The `--set name=value` option that commands about schedulers share."""

from collections.abc import Sequence
from typing import Annotated

import typer

from tuner.errors import UserError
from tuner.names import Setting

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="fastface, fastface_cooldown, haar, constant, multi_step, cosine, polynomial or plateau "
        "[default: fastface].",
    ),
]
DEFAULT_SCHEDULER = "fastface"
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the scheduler; may be given many times."),
]


def parse_settings(given: Sequence[str] | None) -> dict[str, Setting]:
    """Return the settings of `name=value` words; values are whole numbers, numbers or texts.

    Raises:
        UserError: a word without `=`, without a name or value, or a name that is given twice.
    """
    return {name: _value(text) for name, text in split_settings(given).items()}


def split_settings(given: Sequence[str] | None) -> dict[str, str]:
    """Return the settings of `name=value` words, as they were written.

    Raises:
        UserError: as `parse_settings`.
    """
    settings: dict[str, str] = {}
    for word in given or ():
        name, equals, text = word.partition("=")
        name, text = name.strip(), text.strip()
        if not equals or not name or not text:
            raise UserError(
                f"`--set name=value` must hold, but got `--set {word}`; write for example --set patience=500"
            )
        if name in settings:
            raise UserError(f"each setting may be given once, but `{name}` is {settings[name]} and {text}; keep one")
        settings[name] = text
    return settings


def _value(text: str) -> Setting:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
