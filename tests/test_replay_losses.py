"""Recorded losses: how gaps are filled, what a bad CSV says, and the same curve from an MLflow run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.analysis.loss_csv import read_loss_csv
from tuner.analysis.loss_log import LRChange, lr_column
from tuner.curves import CurvePoint, CurveWriter
from tuner.errors import UserError

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "loss_logs" / "webface4m_r100.csv"


def write(folder: Path, text: str) -> Path:
    path = folder / "losses.csv"
    path.write_text(text)
    return path


def test_a_loss_is_that_of_all_steps_since_the_row_before(tmp_path: Path) -> None:
    log = read_loss_csv(write(tmp_path, "step,loss\n20,4.0\n30,3.0\n35,2.0\n"))
    assert log.first_step == 1
    assert log.losses.tolist() == [4.0] * 20 + [3.0] * 10 + [2.0] * 5
    assert log.lr is None
    assert log.recorded_changes() == []


def test_a_log_with_a_row_for_step_0_counts_from_0(tmp_path: Path) -> None:
    log = read_loss_csv(write(tmp_path, "step,loss\n0,4.0\n1,3.0\n4,2.0\n"))
    assert log.first_step == 0
    assert log.losses.tolist() == [4.0, 3.0, 2.0, 2.0, 2.0]


def test_the_curve_of_a_trial_is_read_bit_for_bit(tmp_path: Path) -> None:
    points = [CurvePoint(0, 1 / 3, 0.1), CurvePoint(1, 0.3, 0.1, 1e-17), CurvePoint(2, 0.1 + 0.2, 0.1 / 3, -2.5)]
    with CurveWriter(tmp_path / "curve.csv") as writer:
        for point in points:
            writer.write(point)
    log = read_loss_csv(tmp_path / "curve.csv")
    assert log.losses.tolist() == [point.loss for point in points]
    assert log.lr is not None
    assert log.lr.values.tolist() == [point.lr for point in points]
    assert log.recorded_changes() == [LRChange(2, 0.1, 0.1 / 3)]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffstep,loss\n1,2\n2,1\n",  # as spreadsheets write it
        " Step , Loss \n 1 , 2 \n2,1\n",
        "loss,note,step\n2,a,1\n1,b,2\n",
        "step,loss\r\n1,2\r\n\r\n2,1\r\n",
        "step,loss\n1.0,2\n2.0,1",  # as pandas writes a column that once had a gap
        "step,loss,lr\n1,2,\n2,1,\n",
    ],
)
def test_harmless_differences_do_not_matter(tmp_path: Path, text: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_bytes(text.encode())
    log = read_loss_csv(path)
    assert log.losses.tolist() == [2.0, 1.0]
    assert log.lr is None


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "the file is empty"),
        ("\n\n", 1, "the file is empty"),
        ("step,loss\n", 2, "at least one row"),
        ("step,value\n1,2\n", 1, "column `loss`"),
        ("loss\n2\n", 1, "column `step`"),
        ("step;loss\n1;2\n", 1, "column `step`"),
        ("1,2\n2,1\n", 1, "column `step`"),
        ("step,loss,loss\n1,2,3\n", 1, "2 times"),
        ("step,loss\n1,2\n2,high\n", 3, "'high'"),
        ("step,loss\n1,2\n2,\n", 3, "it is empty"),
        ("step,loss\n1,2\n2,nan\n3,1\n", 3, "must be finite, but got nan"),
        ("step,loss\n1,2\n2,-inf\n", 3, "must be finite"),
        ("step,loss\n1,2\n2,1e200\n", 3, "at most 1e+100"),
        ("step,loss\n1,2\nnan,2\n", 3, "`step` must be finite"),
        ("step,loss\nfirst,2\n", 2, "`step` must be a number"),
        ("step,loss\n1.5,2\n", 2, "whole number"),
        ("step,loss\n-1,2\n", 2, "`step >= 0`"),
        ("step,loss\n10,2\n20,1\n\n15,3\n", 5, "goes back after 20"),
        ("step,loss\n10,2\n10,1\n", 3, "is repeated"),
        ("step,loss\n1,2\n2,1,0.1\n", 3, "this line has 3"),
        ("step,loss,lr\n1,2,0.1\n2,1\n", 3, "this line has 2"),
        ("step,loss,lr\n1,2,0.1\n2,1,\n", 3, "`lr` must be a number"),
        ("step,loss,lr\n1,2,\n2,1,0.1\n", 3, "in all rows or in none"),
        ("step,loss,lr\n1,2,0.1\n2,1,-0.1\n", 3, "`lr >= 0`"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line_and_what_is_wrong(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_loss_csv(write(tmp_path, text))
    message = str(caught.value)
    assert f"losses.csv, line {line}: " in message
    assert problem in message
    assert "\n" not in message


def test_what_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "losses.csv"
    binary.write_bytes(b"\x93NUMPY\x01\x00v\x00\xff\xfe" * 50)
    with pytest.raises(UserError, match="binary or not UTF-8"):
        read_loss_csv(binary)
    with pytest.raises(UserError, match="cannot be read"):
        read_loss_csv(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_loss_csv(tmp_path)
    with pytest.raises(UserError, match="check the step column"):
        read_loss_csv(write(tmp_path, "step,loss\n1,2\n99999999999,1\n"))


def test_recorded_lrs_stand_for_what_they_were_rounded_from() -> None:
    six_decimals = lr_column(["0.02", "0.000313", "5e-06"])
    assert six_decimals.shows(0.000313, 0.0003125)
    assert six_decimals.shows(5e-06, 4.8828125e-06)
    assert not six_decimals.shows(0.000313, 0.000314)
    four_digits = lr_column(["2.000e-02", "3.125e-04", "1.953e-05"])
    assert four_digits.shows(1.953e-05, 1.953125e-05)
    exact = lr_column([repr(0.1 / 3), repr(0.1)])
    assert exact.shows(0.1 / 3, 0.1 / 3)
    assert not exact.shows(0.1 / 3, 0.0333333)


def test_changes_below_the_rounding_are_not_seen() -> None:
    rounded = lr_column(["0.0010", "0.0001", "0.0"])
    assert rounded.visible(1e-3, [1e-4, 1e-5, 1e-6, 1e-4]) == [0, 1, 3]
    exact = lr_column([repr(1e-3), repr(1.234e-9)])
    assert exact.visible(1e-3, [1e-12, 1e-13]) == [0, 1]


def test_a_run_of_mlflow_is_read_like_a_csv(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from tuner.analysis.loss_run import read_loss_run

    client = MlflowClient(mlflow_store(tmp_path / "store"))
    run_id = client.create_run("0").info.run_id
    losses, lrs = [3.0, 1 / 3, 0.25], [0.1, 0.1, 0.05]
    points = [Metric("loss", loss, 1000 + step, step) for step, loss in enumerate(losses)]
    points += [Metric("lr", lr, 1000 + step, step) for step, lr in enumerate(lrs)]
    points += [Metric("train_loss", 7.0, 1000, 10), Metric("train_loss", 6.0, 1001, 20)]
    client.log_batch(run_id, points)

    log = read_loss_run(client, run_id)
    assert log.losses.tolist() == losses
    assert log.recorded_changes() == [LRChange(2, 0.1, 0.05)]
    assert read_loss_run(client, f"{run_id}/train_loss").losses.tolist() == [7.0] * 10 + [6.0] * 10

    with pytest.raises(UserError, match=r"has no metric 'val'.*loss, lr, train_loss"):
        read_loss_run(client, f"{run_id}/val")
    with pytest.raises(UserError, match="no run 'feedbeef'"):
        read_loss_run(client, "feedbeef")
    client.log_batch(run_id, [Metric("loss", float("nan"), 2000, 3)])
    with pytest.raises(UserError, match="step 3: `loss` must be finite"):
        read_loss_run(client, run_id)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published log is not in ../shared")
def test_the_published_log_covers_its_run() -> None:
    log = read_loss_csv(PUBLISHED)
    assert (log.first_step, log.num_steps, log.steps_between_rows()) == (1, 165_430, 10)
    assert log.losses[:21].tolist() == [42.1388] * 20 + [42.6207]
    changes = log.recorded_changes()
    assert len(changes) == 18
    assert changes[0] == LRChange(41_900, 0.02, 0.01)
