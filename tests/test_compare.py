"""The table of a sweep's trials: order, what it shows, and what it must survive."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from rich.console import Console

from tuner.analysis.compare import as_rows, table
from tuner.names import Setting
from tuner.trials import TrialRecord


def trial(number: int, value: float | None, params: Mapping[str, Setting], **more: Any) -> TrialRecord:
    common = {"scheduler": "fastface", "settings": {}, "base_lr": 0.1, "reference": number == 0, "key": str(number)}
    state = "FAIL" if value is None else "COMPLETE"
    return TrialRecord(number=number, state=state, value=value, params=params, **{**common, **more})


def printed(records: Sequence[TrialRecord], *, width: int = 80) -> str:
    console = Console(width=width, markup=False)
    with console.capture() as capture:
        console.print(table(records, maximize=True, metric="accuracy", title="a sweep"))
    return capture.get()


@pytest.mark.parametrize(("maximize", "order"), [(True, [2, 0, 3, 1]), (False, [0, 3, 2, 1])])
def test_the_best_comes_first_the_earlier_of_equals_and_failures_last(maximize: bool, order: list[int]) -> None:
    records = [trial(0, 0.5, {}), trial(1, None, {}, reason="broke"), trial(2, 0.9, {}), trial(3, 0.5, {})]
    assert [row["trial"] for row in as_rows(records, maximize=maximize)] == order


def test_five_parameters_fit_eighty_columns_uncut() -> None:
    names = ("ema_window_fraction", "haar_window_fraction", "threshold_fraction", "patience_fraction", "decay_factor")
    records = [
        trial(number, 0.7 + number / 100, dict.fromkeys(names, 0.0123 * (number + 1)), steps_executed=600)
        for number in range(3)
    ]
    text = printed(records)
    assert "0.0123" in text
    assert "…" not in text
    assert text.count("0*") == 1


def test_parameters_of_single_schedulers_share_a_column() -> None:
    records = [
        trial(0, 0.7, {"scheduler": "cosine", "cosine.final_factor": 0.1}),
        trial(1, 0.8, {"scheduler": "plateau", "plateau.patience_fraction": 0.05, "plateau.factor": 0.5}),
    ]
    text = printed(records)
    assert "final factor 0.1" in text
    assert "patience 0.05, factor 0.5" in text
    assert "setting" in text


def test_a_reason_with_brackets_is_shown_as_it_is() -> None:
    text = printed([trial(0, 0.7, {}), trial(1, None, {}, reason="cannot read [/data/x]")], width=120)
    assert "failed: cannot read [/data/x]" in text


def test_a_sweep_without_a_trial_has_an_empty_table() -> None:
    assert "a sweep" in printed([])
