"""A confirmation from the sweep's folder to its verdict: what is trained, what is kept, what MLflow shows."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_confirm
import pytest
from fake_confirm import STEPS, Actor, confirmed, made
from mirrored import trial_runs
from mlflow import MlflowClient
from typer.testing import CliRunner

from tuner.analysis.confirmed_record import read_confirmation
from tuner.cli.main import app
from tuner.config.run_file import load_run
from tuner.curves import read_curve
from tuner.errors import SweepStoppedError, UserError
from tuner.names import CACHE_VARIABLE, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.sweep.confirm_runs import ConfirmRuns
from tuner.sweep.confirm_source import ConfirmSource
from tuner.sweep.contenders import choose_contenders, new_seeds
from tuner.sweep.folder import SweepFolder
from tuner.sweep.lock import sweep_lock

HERE = Path(__file__).parent
VALUES = [0.80, 0.85, 0.84, None, 0.84, 0.80]
ALIKE = [(2, 4), (0, 5)]


@pytest.fixture(autouse=True)
def _fresh_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Actor, "fails", ())
    monkeypatch.setattr(Actor, "terminates", None)
    monkeypatch.setattr(Actor, "begun", [])


@pytest.fixture
def uri(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> str:
    return mlflow_store(tmp_path)


@pytest.fixture
def sweep(tmp_path: Path, uri: str) -> SweepFolder:
    """Return a sweep whose trials 2 and 4 were the same run, and whose trial 5 was the published one's."""
    return made(tmp_path / "sweeps" / "fake", uri, values=VALUES, alike=ALIKE)


def group_of(folder: SweepFolder) -> str:
    return str(json.loads((folder.path / "confirm" / "group.json").read_text())["run_id"])


def test_the_best_distinct_settings_meet_the_published_one_under_new_seeds(sweep: SweepFolder) -> None:
    found, said = confirmed(sweep, top=5, seeds=4, baselines=("cosine",))
    assert [each.name for each in found.contenders] == ["published", "trial 1", "trial 2", "cosine"]
    assert [each.same_as for each in found.contenders] == [(5,), (), (4,), ()]
    assert [each.searched for each in found.contenders] == [0.80, 0.85, 0.84, None]
    assert found.seeds == (4, 5, 6, 7)  # the search had 3
    assert "--top 5 was asked for, but the sweep has 2 settings besides the published one" in found.notes
    assert "16 of 16" in said
    plan = Ledger.open(sweep.journal, read_only=True).plan
    for row, each in enumerate(found.contenders):
        for column, seed in enumerate(found.seeds):
            run = {"seed": seed, "scheduler": {"settings": dict(each.settings)}}
            assert found.values[row][column] == fake_confirm.value(run)
    assert plan.seed not in found.seeds
    assert (found.cost.runs, found.cost.steps, found.cost.executed) == (16, 16 * STEPS, 8 * STEPS)
    assert read_confirmation(sweep.path) == found
    record = json.loads((sweep.path / "confirm.json").read_text())
    assert record["best_trial"] == found.best_trial == 1
    assert record["shown"] is True


def test_asked_again_it_trains_nothing_and_asked_for_more_only_what_is_missing(sweep: SweepFolder) -> None:
    first, _ = confirmed(sweep, top=1, seeds=2)
    assert Actor.begun == ["0000", "0001", "0002", "0003"]
    again, _ = confirmed(sweep, top=1, seeds=2)
    assert again == first
    assert len(Actor.begun) == 4
    more, _ = confirmed(sweep, top=2, seeds=3)
    assert len(Actor.begun) == 4 + 5
    assert [row[:2] for row in more.values[:2]] == list(first.values)
    fewer, _ = confirmed(sweep, top=2, seeds=2)
    assert len(Actor.begun) == 9
    assert any("seeds 6 are there too" in note for note in fewer.notes)


def test_mlflow_has_a_group_of_its_own_with_a_run_for_each_setting_and_seed(sweep: SweepFolder, uri: str) -> None:
    found, _ = confirmed(sweep, top=1, seeds=2)
    confirmed(sweep, top=1, seeds=3)
    client, parent = MlflowClient(uri), sweep.read().parent_run_id
    group = client.get_run(group_of(sweep))
    assert found.group_run_id == group.info.run_id
    assert group.info.status == "FINISHED"
    assert group.data.tags["fastface_tuner.kind"] == "confirmation"
    assert group.data.tags["fastface_tuner.confirms"] == parent
    assert "mlflow.parentRunId" not in group.data.tags
    assert group.data.tags["mlflow.note.content"].startswith("Trial 1 is better than the published setting by")
    assert group.data.tags["seeds"] == "4, 5, 6"
    assert group.data.metrics["gain"] == pytest.approx(read_confirmation(sweep.path).findings.winner.gain)
    texts = {
        each.path: Path(client.download_artifacts(group.info.run_id, each.path)).read_text()
        for each in client.list_artifacts(group.info.run_id)
    }
    assert json.loads(texts["confirm.json"])["seeds"] == [4, 5, 6]
    assert texts["confirm.svg"].startswith("<?xml")
    assert "| trial 1 * |" in texts["confirm.md"]
    assert trial_runs(client, parent) == []  # they are no trials of the search
    runs = trial_runs(client, group.info.run_id)
    assert len(runs) == 6
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["seed"] for run in runs} == {"4", "5", "6"}
    assert sum("seed 4" in run.info.run_name and "trial 1" in run.info.run_name for run in runs) == 1
    for number, run in enumerate(runs):
        curve = read_curve(sweep.path / "confirm" / f"{number:04d}" / "curve.csv")
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(each.step, each.value) for each in history] == [(point.step, point.loss) for point in curve]
        assert run.data.metrics["steps_shared"] == STEPS / 2
    again = load_run(client.download_artifacts(runs[0].info.run_id, "config.yaml")).config  # `train` takes it
    assert str(again.seed) == runs[0].data.params["seed"]
    assert all(run.sent for run in map(ConfirmRuns(sweep.path).of_number, range(6)))


def test_what_mlflow_missed_is_sent_when_it_is_back(sweep: SweepFolder, tmp_path: Path, uri: str) -> None:
    database = tmp_path / "mlflow.db"
    database.rename(tmp_path / "away.db")
    found, said = confirmed(sweep, top=1, seeds=2)
    assert "confirm again to send them" in said
    assert found.group_run_id is None
    assert not database.exists()
    (tmp_path / "away.db").rename(database)
    left = CliRunner().invoke(app, ["sync", str(sweep.path)])
    assert left.exit_code == 1
    assert (
        "4 runs of the confirmation; send them with the command that made them: fastface-tuner confirm" in left.stderr
    )
    confirmed(sweep, top=1, seeds=2)
    assert len(Actor.begun) == 4
    runs = trial_runs(MlflowClient(uri), group_of(sweep))
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert MlflowClient(uri).get_run(group_of(sweep)).info.status == "FINISHED"


def test_a_deleted_group_is_made_anew_with_all_its_runs(sweep: SweepFolder, uri: str) -> None:
    confirmed(sweep, top=1, seeds=1)
    client, first = MlflowClient(uri), group_of(sweep)
    client.delete_run(first)
    confirmed(sweep, top=1, seeds=1)
    assert group_of(sweep) != first
    assert len(trial_runs(client, group_of(sweep))) == 2


def test_one_failed_run_costs_its_pair_and_is_not_trained_again(sweep: SweepFolder, uri: str) -> None:
    Actor.fails = (1,)
    found, _ = confirmed(sweep, top=2, seeds=3)
    assert found.values[1][0] is None
    assert "trial 1 (fastface" in found.failures[0]
    assert "failed with seed 4: the loss must stay finite" in found.failures[0]
    assert found.contenders[found.findings.winner.index].name == "trial 2"
    Actor.fails = ()
    confirmed(sweep, top=2, seeds=3)
    assert len(Actor.begun) == 9
    runs = trial_runs(MlflowClient(uri), group_of(sweep))
    assert [run.info.run_name.split(" · ")[1] for run in runs if run.info.status == "FAILED"] == ["seed 4"]
    assert runs[1].data.tags["reason"] == "the loss must stay finite"


def test_where_all_fail_it_ends_with_the_reason_and_leaves_no_verdict(sweep: SweepFolder, uri: str) -> None:
    Actor.fails = range(20)
    with pytest.raises(SweepStoppedError, match=r"no setting .* trained to its end: .*the loss must stay finite"):
        confirmed(sweep, top=1, seeds=2)
    assert read_confirmation(sweep.path) is None
    assert MlflowClient(uri).get_run(group_of(sweep)).info.status == "FAILED"
    with pytest.raises(SweepStoppedError, match=r"5 runs in a row failed.*fastface-tuner confirm .* --top 1 --seeds 9"):
        confirmed(sweep, top=1, seeds=9)
    assert {run.info.status for run in trial_runs(MlflowClient(uri), group_of(sweep))} == {"FAILED"}


def test_a_run_whose_process_was_killed_is_repeated_the_next_time(sweep: SweepFolder, monkeypatch: Any) -> None:
    ended = ConfirmSource.ended
    with monkeypatch.context() as patch:
        patch.setattr(
            ConfirmSource, "ended", lambda self, number, result: ended(self, number, None if number == 1 else result)
        )
        found, _ = confirmed(sweep, top=1, seeds=2)
    assert found.values[1][0] is None
    assert "was lost with seed 4, confirm again" in found.failures[0]
    found, _ = confirmed(sweep, top=1, seeds=2)
    assert found.values[1][0] is not None
    assert Actor.begun == ["0000", "0001", "0002", "0003", "0001"]
    assert found.failures == ()


def test_a_signal_leaves_nothing_running_and_the_same_command_goes_on(sweep: SweepFolder, uri: str) -> None:
    Actor.terminates = 1
    with pytest.raises(SystemExit, match="143"):
        confirmed(sweep, top=2, seeds=2)
    client = MlflowClient(uri)
    assert client.get_run(group_of(sweep)).info.status == "KILLED"
    assert [run.info.status for run in trial_runs(client, group_of(sweep))] == ["FINISHED", "KILLED"]
    assert read_confirmation(sweep.path) is None
    Actor.terminates = None
    assert_goes_on_after_the_first_run(sweep, client)


def test_killed_it_goes_on_and_repeats_no_finished_run(sweep: SweepFolder, uri: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    command = [sys.executable, str(HERE / "fake_confirm.py"), str(sweep.path), "1.5"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["0000\n", "0001\n"]
        process.kill()
        process.communicate(timeout=60)
    assert_goes_on_after_the_first_run(sweep, MlflowClient(uri))


def assert_goes_on_after_the_first_run(sweep: SweepFolder, client: MlflowClient) -> None:
    Actor.begun.clear()
    found, said = confirmed(sweep, top=2, seeds=2)
    assert "1 of 6 runs are done" in said
    assert Actor.begun == ["0001", "0002", "0003", "0004", "0005"]
    assert all(None not in row for row in found.values)
    assert [run.info.status for run in trial_runs(client, group_of(sweep))] == ["FINISHED"] * 6
    assert client.get_run(group_of(sweep)).info.status == "FINISHED"


def test_with_ray_two_settings_are_trained_and_share_steps(
    sweep: SweepFolder, uri: str, session_cache: Path, tmp_path: Path
) -> None:
    sweep.write(sweep.read().model_copy(update={"store": str(tmp_path / "stages")}), replace=True)
    environment = {**os.environ, TRACKING_URI_VARIABLE: uri, CACHE_VARIABLE: str(session_cache)}
    command = [sys.executable, "-m", "tuner.cli.main", "confirm", "fake", "--top", "1", "--seeds", "1", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["name"] for each in found["contenders"]] == ["published", "trial 1"]
    assert all(0 <= each["mean"]["mean"] <= 1 for each in found["contenders"])
    assert found["cost"]["steps"] == 2 * STEPS
    assert 0 < found["cost"]["shared"] <= STEPS
    assert "one new seed" in found["verdict"]
    assert "2 of 2" in done.stderr


# What is refused, and what counts as which setting.


@pytest.fixture
def other(tmp_path: Path, uri: str) -> Iterator[Callable[..., SweepFolder]]:
    def make(*values: float | None, **options: Any) -> SweepFolder:
        return made(tmp_path / "sweeps" / "other", uri, values=values, **options)

    yield make


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((None, None), "needs a trial that has finished"),
        ((0.8,), "needs a finished trial that differs from the published setting"),
    ],
)
def test_a_sweep_without_anything_to_confirm_is_refused(
    values: tuple[float | None, ...], expected: str, other: Callable[..., SweepFolder]
) -> None:
    folder = other(*values)
    with pytest.raises(UserError, match=expected):
        confirmed(folder)
    assert not (folder.path / "confirm").exists()


def test_an_unknown_baseline_is_refused_and_what_there_is_is_named(sweep: SweepFolder) -> None:
    with pytest.raises(UserError, match=r"--baseline must be a scheduler \(fastface, .*cosine.*got 'cosin'"):
        confirmed(sweep, baselines=("cosin",))
    assert Actor.begun == []


def test_a_running_sweep_is_not_confirmed(sweep: SweepFolder) -> None:
    with sweep_lock(sweep.path), pytest.raises(UserError, match="one process at a time"):
        confirmed(sweep)


def test_a_damaged_record_of_a_run_is_an_error_that_names_it(sweep: SweepFolder) -> None:
    confirmed(sweep, top=1, seeds=1)
    record = sweep.path / "confirm" / "0001" / "run.json"
    record.write_text(record.read_text().replace("0.7", "0.9"))
    with pytest.raises(UserError, match=r"0001/run\.json.*damaged"):
        confirmed(sweep, top=1, seeds=1)


def test_the_best_of_another_sweep_is_a_baseline_and_equal_runs_count_once(
    sweep: SweepFolder, other: Callable[..., SweepFolder]
) -> None:
    folder = other(0.7, 0.9)
    ledger = Ledger.open(sweep.journal, read_only=True)
    chosen, notes = choose_contenders(ledger, sweep, top=1, baselines=[str(folder.path), "fastface", "cosine"])
    # Both sweeps drew the same trial 1, and fastface as published is the published setting.
    assert [each.name for each in chosen] == ["published", "trial 1", "cosine"]
    assert [note.rpartition("is the same run as ")[2] for note in notes] == [
        "trial 1, and counts once",
        "the published setting, and counts once",
    ]


def test_a_baseline_from_shorter_runs_is_taken_at_the_length_of_these(
    sweep: SweepFolder, other: Callable[..., SweepFolder]
) -> None:
    ledger = Ledger.open(sweep.journal, read_only=True)
    ledger.plan = replace(ledger.plan, steps=2 * STEPS)
    _, notes = choose_contenders(ledger, sweep, top=1, baselines=[str(other(0.7, 0.9).path)])
    assert notes == ["the baseline fake, trial 1 is the same run as trial 1, and counts once"]


def test_the_published_setting_counts_also_where_its_trial_failed(other: Callable[..., SweepFolder]) -> None:
    found, _ = confirmed(other(None, 0.9), top=1, seeds=2)
    assert (found.contenders[0].trial, found.contenders[0].searched) == (None, None)
    assert found.findings.luck.share is None
    assert found.best_trial == 1


def test_new_seeds_are_not_the_searchs(sweep: SweepFolder) -> None:
    plan = Ledger.open(sweep.journal, read_only=True).plan
    assert new_seeds(plan, number=3, first=None) == [4, 5, 6]
    assert new_seeds(plan, number=3, first=2) == [2, 4, 5]
    assert new_seeds(plan, number=2, first=0) == [0, 1]
