"""The tables of sweeps: order, what they show, what they leave out, and what they must survive."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_sweep import SECONDS, SPACE, falling, make_sweep
from rich.console import Console
from typer.testing import CliRunner, Result

from tuner.analysis.collected import CollectedSweep, Shown
from tuner.analysis.compare import trial_grid
from tuner.analysis.recorded_files import RecordedFiles
from tuner.analysis.summary import ranked
from tuner.cli.main import app
from tuner.errors import UserError
from tuner.names import Setting
from tuner.trials import TrialRecord

HAAR = SPACE.replace("name: fastface", "name: haar").replace("steps: 100", "steps: 200")


def trial(number: int, value: float | None, params: Mapping[str, Setting], **more: Any) -> TrialRecord:
    common = {"scheduler": "fastface", "settings": {}, "base_lr": 0.1, "reference": number == 0, "key": str(number)}
    state = "FAIL" if value is None else "COMPLETE"
    return TrialRecord(number=number, state=state, value=value, params=params, **{**common, **more})


def printed(records: Sequence[TrialRecord], *, width: int = 80) -> str:
    sweep = CollectedSweep(
        name="a sweep", metric="accuracy", maximize=True, trials=tuple(records), recorded=RecordedFiles(Path), about={}
    )
    console = Console(width=width, markup=False)
    with console.capture() as capture:
        shown = [Shown(sweep, record) for record in ranked(records, maximize=True)]
        trial_grid(shown, title="a sweep").show(console)
    return capture.get()


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, ["compare", *words], env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def data(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


@pytest.mark.parametrize(("maximize", "order"), [(True, [2, 0, 3, 1]), (False, [0, 3, 2, 1])])
def test_the_best_comes_first_the_earlier_of_equals_and_failures_last(maximize: bool, order: list[int]) -> None:
    records = [trial(0, 0.5, {}), trial(1, None, {}, reason="broke"), trial(2, 0.9, {}), trial(3, 0.5, {})]
    assert [record.number for record in ranked(records, maximize=maximize)] == order


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
    assert "trained" in text
    assert "shared" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_has_no_room_is_left_out_and_named_and_nothing_is_cut(width: int) -> None:
    names = [f"parameter_{place}" for place in range(12)]
    text = printed([trial(number, 0.5, dict.fromkeys(names, number + 0.25)) for number in range(3)], width=width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    words = " ".join(text.split())
    assert "no room for" in words
    assert "parameter 11" in words
    assert "0.5000" in text


def test_parameters_of_single_schedulers_share_a_column() -> None:
    records = [
        trial(0, 0.7, {"scheduler": "cosine", "cosine.final_factor": 0.1}),
        trial(1, 0.8, {"scheduler": "plateau", "plateau.patience_fraction": 0.05, "plateau.factor": 0.5}),
    ]
    text = printed(records, width=100)
    assert "final factor 0.1" in text
    assert "patience 0.05, factor 0.5" in text
    assert "setting" in text


def test_a_reason_with_brackets_is_shown_as_it_is() -> None:
    text = printed([trial(0, 0.7, {}), trial(1, None, {}, reason="cannot read [/data/x]")], width=120)
    assert "failed: cannot read [/data/x]" in text


def test_sweeps_stand_side_by_side_with_what_differs() -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9, "broke", 0.7])
    make_sweep(Path("sweeps/second"), [0.6, 0.8], space=HAAR)
    one, other = data("first", "second")["sweeps"]
    assert (one["best"], one["median"], one["quartiles"]) == ({"trial": 1, "value": 0.9}, 0.7, [0.6, 0.8])
    assert (one["trials"], one["complete"], one["failed"], one["running"]) == (4, 3, 1, 0)
    assert (one["steps_executed"], one["minutes"]) == (400, pytest.approx(4 * SECONDS / 60, abs=1e-3))
    assert (other["steps"], other["median"]) == (200, 0.7)
    text = run("first", "second").stdout
    assert "quartiles" in text
    assert "fastface" in text
    assert "haar" in text
    rows = data("first", "second")["trials"]
    assert [(row["sweep"], row["trial"]) for row in rows[:3]] == [("first", 1), ("second", 1), ("first", 3)]


def test_repeated_runs_count_once_for_the_median() -> None:
    records = [trial(0, 0.1, {}), trial(1, 0.9, {}), *(trial(n, 0.9, {}, duplicate_of=1) for n in range(2, 9))]
    from tuner.analysis.summary import summarize

    sweep = CollectedSweep(
        name="s", metric="accuracy", maximize=True, trials=tuple(records), recorded=RecordedFiles(Path), about={}
    )
    found = summarize(sweep, [Shown(sweep, record) for record in records])
    assert (found.median, found.repeats) == (0.5, 7)


def test_two_sweeps_of_one_name_are_told_apart() -> None:
    make_sweep(Path("a/first"), [0.5])
    make_sweep(Path("b/first"), [0.6])
    assert [sweep["sweep"] for sweep in data("a/first", "b/first")["sweeps"]] == ["first", "first (2)"]


@pytest.mark.parametrize(
    ("condition", "trials"),
    [
        ("value>0.55", [1, 3]),
        ("state=FINISHED", [0, 1, 3]),
        ("state = fail or trial=0", [0, 2]),
        ("not (state=COMPLETE and accuracy >= 0.7)", [0, 2, 4]),
        ("reason = 'the loss broke'", [2]),
        ("reason != none", [2]),
        ("reason = none and value = none", [4]),
        ("params.decay_factor >= 2 and `final_loss` < 0.2", [1]),
        ("max_decays = 8 and reference = true", [0]),
        ("steps_executed>=100 and minutes<1 and trial != 3", [0, 1, 2]),
        ("scheduler=FastFace and trial=3.0", [3]),
        ("value < 0.0", []),
    ],
)
def test_conditions_choose_trials(condition: str, trials: list[int]) -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9, "the loss broke", 0.7, None])
    assert sorted(row["trial"] for row in data("first", "--where", condition)["trials"]) == trials


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("decay_facto>=4", "did you mean `decay_factor`?"),
        ("decay_factor", "the end stands where one of ="),
        ("decay_factor>=", "the end stands where a value"),
        (">=4", "'>=' stands where a key"),
        ("decay_factor>=4 trial=3", "'trial' stands where `and`, `or`"),
        ("(trial=3", "the end stands where `)`"),
        ("state>FINISHED", "'FINISHED' stands where a number"),
        ("__import__('os')=1", "'(' stands where one of ="),
        ("trial = 'x", "stands where something else should"),
        ("", "the end stands where a key"),
    ],
)
def test_a_condition_that_is_none_is_told_where_it_goes_wrong(condition: str, message: str) -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9])
    with pytest.raises(UserError) as caught:
        run("first", "--where", condition)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trials_are_sorted_by_several_keys_and_those_without_a_value_come_last() -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9, "broke", 0.9])
    rows = data("first", "--sort", "-value,-trial")["trials"]
    assert [row["trial"] for row in rows] == [3, 1, 0, 2]
    assert [row["trial"] for row in data("first", "--sort", "final_loss", "--top", "2")["trials"]] == [1, 3]
    with pytest.raises(UserError, match="did you mean `value`"):
        run("first", "--sort", "-valu")


def test_a_loss_is_reached_when_its_mean_over_a_twentieth_of_the_run_is_there() -> None:
    losses = {0: [1.0] * 60 + [0.5] * 40, 1: [1.0] * 30 + [0.0] + [1.0] * 69, 2: [0.4] * 100}
    make_sweep(Path("sweeps/first"), [0.5, 0.6, 0.7], losses=lambda number, _: losses[number])
    found = data("first", "--target-loss", "0.5")
    steps = {row["trial"]: row["target_steps"] for row in found["trials"]}
    assert steps == {0: 65, 1: None, 2: 5}
    seconds = {row["trial"]: row["target_seconds"] for row in found["trials"]}
    assert seconds[0] == pytest.approx(65 * SECONDS / 100)
    summary = found["sweeps"][0]["target"]
    assert (summary["reached"], summary["fewest_steps"], summary["search_steps"]) == (2, 5, 65)
    assert summary["search_seconds"] == pytest.approx(6.5)
    assert "target: loss <= 0.5" in run("first", "--target-loss", "0.5").stdout


def test_a_metric_is_reached_at_the_first_evaluation_that_says_so() -> None:
    evaluations = {0: {50: 0.5, 100: 0.6}, 1: {50: 0.65, 100: 0.6}, 2: {50: 0.5}}
    make_sweep(Path("sweeps/first"), [0.6, 0.6, "broke"], evaluations=evaluations)
    found = data("first", "--target", "accuracy=0.6")
    assert {row["trial"]: row["target_steps"] for row in found["trials"]} == {0: 100, 1: 50, 2: None}
    assert found["sweeps"][0]["target"]["search_steps"] == 100
    none = run("first", "--target", "accuracy=0.99").stdout
    assert "reached by none" in " ".join(none.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "accuracy"], "--target METRIC=VALUE"),
        (["--target", "accuracy=high"], "--target METRIC=VALUE"),
        (["--target", "acuracy=1"], "did you mean `accuracy`?"),
        (["--metric", "acuracy"], "did you mean `accuracy`?"),
        (["--target", "accuracy=1", "--target-loss", "1"], "one target"),
        (["--json", "--csv"], "one form of output"),
    ],
)
def test_other_bad_input_costs_one_line(words: list[str], message: str) -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9])
    with pytest.raises(UserError, match=message):
        run("first", *words)


def test_a_damaged_curve_is_named() -> None:
    folder = make_sweep(Path("sweeps/first"), [0.5], losses=falling)
    (folder.trial(0) / "curve.csv").write_text("step,loss,lr,detector_response\n0,what,0.1,\n")
    with pytest.raises(UserError, match=r"0000/curve\.csv: damaged"):
        run("first", "--target-loss", "0.5")


def test_csv_has_a_row_for_each_trial_and_markdown_a_table() -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9, "it, | broke"])
    make_sweep(Path("sweeps/second"), [0.6], space=HAAR)
    rows = list(csv.DictReader(io.StringIO(run("first", "second", "--csv").stdout)))
    assert [(row["sweep"], row["trial"]) for row in rows] == [
        ("first", "1"), ("second", "0"), ("first", "0"), ("first", "2"),
    ]  # fmt: skip
    assert rows[0]["metrics.accuracy"] == "0.9"
    assert float(rows[2]["params.patience_fraction"]) == 0.05
    assert rows[3]["reason"] == "it, | broke"
    lines = run("first", "second", "--markdown").stdout.splitlines()
    assert sum(line.startswith("| ---") for line in lines) == 2
    assert any("it, \\| broke" in line for line in lines)


@pytest.mark.parametrize(
    "values", [[], [None], [0.5], [0.5] * 4, ["broke"] * 3], ids=["empty", "running", "one", "equal", "failed"]
)
@pytest.mark.parametrize("form", ["--json", "--csv", "--markdown", "--top=3", "--target-loss=0.5", "--sort=value"])
def test_a_sweep_with_little_to_say_says_it(values: list[float | str | None], form: str) -> None:
    make_sweep(Path("sweeps/first"), values, losses=falling)
    result = run("first", form)
    assert result.exit_code == 0
    assert result.stdout.strip()


def test_sweeps_judged_by_different_metrics_are_not_mixed() -> None:
    make_sweep(Path("sweeps/first"), [0.5, 0.9])
    make_sweep(Path("sweeps/second"), [0.4, 0.3], space=SPACE + "objective: {metric: final_loss}\n")
    rows = data("first", "second")["trials"]
    assert [(row["sweep"], row["trial"]) for row in rows] == [
        ("first", 1), ("first", 0), ("second", 1), ("second", 0),
    ]  # fmt: skip
    judged = data("first", "second", "--metric", "final_loss")["trials"]
    assert [row["value"] for row in judged] == sorted(row["value"] for row in judged)


def test_no_such_sweep_is_one_line_that_names_those_there_are() -> None:
    make_sweep(Path("sweeps/first"), [0.5])
    with pytest.raises(UserError, match="known here: first"):
        run("secnd")


def test_a_misspelt_name_is_told_also_where_the_tracking_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(Path("sweeps/first"), [0.5])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"known here: first; nor could it be looked for elsewhere: .*127\.0\.0\.1:9"):
        run("secnd")
