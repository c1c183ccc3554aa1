"""The answer of a sweep in sentences: what it names, against what, and when it doubts."""

import re
from typing import Any

import pytest

from tuner.analysis.verdict import judge
from tuner.analysis.words import brief_duration, count, duration, fixed, listed, plain, setting_line
from tuner.trials import TrialRecord


def trial(number: int, value: float | None, *, std: float | None = None, **more: Any) -> TrialRecord:
    common: dict[str, Any] = {
        "state": "FAIL" if value is None else "COMPLETE",
        "params": {"patience_fraction": 0.05 + number / 100},
        "scheduler": "fastface",
        "settings": {},
        "base_lr": 0.1,
        "reference": number == 0,
        "key": str(number),
        "steps_executed": 600,
        "seconds": 60.0,
        "metrics": {} if std is None else {"accuracy": value, "accuracy_std": std},
    }
    return TrialRecord(number=number, value=value, **{**common, **more})


def verdict(*records: TrialRecord, metric: str = "accuracy", maximize: bool = True) -> Any:
    return judge(records, metric=metric, maximize=maximize)


def test_the_sentence_names_setting_value_distance_and_cost() -> None:
    found = verdict(trial(0, 0.8), trial(1, 0.85), trial(2, None, reason="broke"), trial(3, 0.9, steps_shared=50))
    assert found.answer == (
        "The best setting is fastface with patience 0.08 (trial 3): accuracy 0.9000, 0.1000 more than the published "
        "setting of fastface (0.8000, trial 0). The search took 4 trials (1 failed), 2,400 training steps (50 more "
        "were shared) and 4.0 minutes."
    )
    assert found.gain == pytest.approx(0.1)
    assert "0.0500 (trial 1) and 0.1000 (trial 0) behind" in found.doubt


def test_less_is_better_where_the_metric_is_a_loss() -> None:
    found = verdict(trial(0, 3.0), trial(1, 2.5), metric="final_loss", maximize=False)
    assert "final loss 2.5000, 0.5000 less than the published setting" in found.answer
    assert found.gain == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("records", "belief"),
    [
        ((), "nothing"),
        ((trial(0, None, reason="broke"),), "nothing"),
        ((trial(0, 0.8),), "alone"),
        ((trial(0, 0.8), trial(1, 0.8, duplicate_of=0)), "alone"),
        ((trial(0, 0.8), trial(1, 0.8)), "tie"),
        ((trial(0, 0.9), trial(1, 0.8)), "published"),
        ((trial(0, 0.8), trial(1, 0.9)), "unmeasured"),
        ((trial(0, 0.80, std=0.01), trial(1, 0.90, std=0.01)), "clear"),
        ((trial(0, 0.899, std=0.01), trial(1, 0.90, std=0.01)), "unclear"),
    ],
)
def test_what_to_believe(records: tuple[TrialRecord, ...], belief: str) -> None:
    found = verdict(*records)
    assert found.belief == belief
    assert found.doubt
    assert not re.search(r"None|nan|  ", str(found))


def test_the_published_setting_of_another_scheduler_is_compared_with_the_first_ones() -> None:
    found = verdict(trial(0, 0.8), trial(1, 0.9, scheduler="cosine", reference=True))
    assert found.belief == "unmeasured"
    assert "The best setting is the published setting of cosine (trial 1): accuracy 0.9000, 0.1000 more than" in str(
        found
    )


def test_a_reference_that_failed_is_said() -> None:
    found = verdict(trial(0, None, reason="broke"), trial(1, 0.9), trial(2, 0.8))
    assert "the published setting did not come to an end" in found.answer
    assert found.gain is None


def test_rivals_are_those_that_the_folds_cannot_tell_apart() -> None:
    records = [trial(0, 0.8, std=0.03), trial(1, 0.9, std=0.03), trial(2, 0.89, std=0.03), trial(3, 0.88, std=0.03)]
    found = verdict(*records)
    assert found.error == pytest.approx(0.01)
    assert [each.number for each in found.rivals] == [2, 3]
    assert "2 other settings are as good" in found.doubt


def test_numbers_and_names_in_words() -> None:
    assert [fixed(value) for value in (0.0, 0.81234, 0.0006, 1e-5, 12345.6)] == [
        "0.0000",
        "0.8123",
        "0.0006",
        "1e-05",
        "12346",
    ]
    assert [duration(seconds) for seconds in (5, 600, 7200, 400_000)] == [
        "5 seconds",
        "10 minutes",
        "2.0 hours",
        "4.6 days",
    ]
    assert [brief_duration(seconds) for seconds in (5, 600, 7200)] == ["5 s", "10.0 min", "2.0 h"]
    assert [count(1, "trial"), count(12_000, "step")] == ["1 trial", "12,000 steps"]
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert plain("cosine.final_factor") == "cosine final factor"
    assert setting_line({"cosine.final_factor": 0.12345, "base_lr": 0.2}) == "final factor 0.123, base lr 0.2"
    assert setting_line({}) == "published setting"
