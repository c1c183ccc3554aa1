"""What a confirmation says in words, for each way in which it can come out."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_confirmation import PUBLISHED, confirmation, shifted
from rich.console import Console

from tuner.analysis.confirmed_plot import drawn
from tuner.analysis.confirmed_record import confirmation_json, read_confirmation, write_confirmation
from tuner.analysis.confirmed_text import grid, lines, markdown, verdict
from tuner.errors import UserError


def test_a_setting_that_is_better_is_called_so_with_its_corrected_interval_and_the_luck_of_the_search() -> None:
    found = confirmation(PUBLISHED, shifted(0.020), shifted(0.030, noise=-0.001))
    assert verdict(found) == (
        "Trial 2 is better than the published setting by 0.028 to 0.032 (95 %, corrected for choosing among 2). "
        "Of the 0.05 that the search promised for trial 1, 60 % was luck (95 %: 56 to 64 %)."
    )
    assert (found.best_trial, found.shown) == (2, True)


def test_a_setting_that_is_not_shown_to_be_better_is_not_called_so() -> None:
    found = confirmation(PUBLISHED, shifted(0.001, noise=0.02), shifted(-0.01))
    assert verdict(found).startswith(
        "No setting is shown to be better than the published one: trial 1, the best of 2, gains between -0."
    )
    assert (found.best_trial, found.shown) == (1, False)


def test_where_the_published_setting_is_best_it_is_the_one_to_train_with() -> None:
    found = confirmation(PUBLISHED, shifted(-0.02))
    assert verdict(found) == (
        "The published setting is the best: trial 1 is worse by 0.018 to 0.022 (95 %). "
        "Of the 0.05 that the search promised, all was luck (95 %: 136 to 144 %)."
    )
    assert (found.best_trial, found.shown) == (0, False)


def test_a_gain_that_was_kept_was_no_luck() -> None:
    found = confirmation(PUBLISHED, shifted(0.06), searched=(0.90, 0.95))
    assert verdict(found).endswith("Of the 0.05 that the search promised, nothing was luck (95 %: -24 to -16 %).")


@pytest.mark.parametrize(
    ("share", "words"), [(0.25, "a quarter"), (1 / 3, "a third"), (0.5, "half"), (0.666, "two thirds"), (0.41, "41 %")]
)
def test_the_share_of_luck_is_told_in_words(share: float, words: str) -> None:
    found = confirmation(PUBLISHED, shifted(0.05 * (1 - share)), searched=(0.90, 0.95))
    assert f"that the search promised, {words} was luck" in verdict(found)


def test_seeds_that_cannot_tell_are_said_not_to() -> None:
    found = confirmation(PUBLISHED, shifted(0.02, noise=0.08), searched=(0.90, 0.95))
    assert "these seeds cannot tell how much was luck (95 %: -" in verdict(found)


def test_without_a_promise_there_is_a_sentence_instead() -> None:
    found = confirmation(PUBLISHED, shifted(0.02), searched=(0.96, 0.95))
    assert verdict(found).endswith("The search saw nothing better than the published setting: no gain was promised.")


def test_one_seed_and_equal_differences_are_no_verdict() -> None:
    assert "one new seed says nothing certain" in verdict(confirmation((0.9,), (0.92,)))
    even = confirmation((0.5, 0.75, 0.625), (0.75, 1.0, 0.875))
    assert "but the difference does not vary with the seed; give more --seeds" in verdict(even)


def test_a_baseline_that_does_better_than_all_is_named() -> None:
    found = confirmation(PUBLISHED, shifted(0.02), shifted(0.04), baselines=1)
    assert verdict(found).endswith("The baseline cosine has a better mean still: 0.9550.")
    assert found.best_trial == 1
    assert "baseline" not in verdict(confirmation(PUBLISHED, shifted(0.02), shifted(-0.04), baselines=1))


def test_losses_read_the_same_way() -> None:
    lower = confirmation(PUBLISHED, shifted(-0.02), searched=(0.90, 0.85), maximize=False)
    assert verdict(lower).startswith("Trial 1 is better than the published setting by 0.018 to 0.022 (95 %).")


def test_settings_that_all_failed_have_a_sentence_and_a_table_all_the_same() -> None:
    found = confirmation(PUBLISHED, (None,) * 4)
    assert verdict(found).startswith("None of the settings that the search picked trained to its end")
    assert found.best_trial == 0
    nothing = confirmation((None, None), (None, None))
    assert nothing.best_trial is None
    assert drawn(nothing)
    assert "failed" in markdown(nothing)


def test_table_and_lines_say_what_each_setting_is_what_it_cost_and_what_failed() -> None:
    found = confirmation(PUBLISHED, shifted(0.02), shifted(0.01), shifted(0.0), baselines=1)
    console = Console(width=80, markup=False, record=True, file=Path("out.txt").open("w"))  # noqa: SIM115
    grid(found).show(console)
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["published", "0.9000", "0.9150", "0.8945", "to", "0.9355", "-", "-", "-"] in rows
    assert any(row[:3] == ["trial", "1", "*"] and row[-4:] == ["+0.0176", "to", "+0.0224", "0.0001"] for row in rows)
    assert any(row[:2] == ["cosine", "-"] for row in rows)
    said = lines(found)
    assert said[0] == verdict(found)
    assert (
        said[1] == "cost: 12 runs, 4000 steps trained, 10 of them again; 3210 of 7200 steps were shared (45 %); 4.2 min"
    )
    assert said[2].startswith("these seeds named trial 1 best of 2; corrected for that, its accuracy is 0.9350")
    assert "trial 1 (fastface, patience 1); the same run: trial 7, 9" in said
    assert "trial 2 failed with seed 3: the loss must stay finite" in said
    assert "| trial 1 * | 0.9500 | 0.9350 |" in markdown(found)


def test_the_picture_is_the_same_each_time_and_stands_alone() -> None:
    found = confirmation(PUBLISHED, shifted(0.02), shifted(0.01), baselines=1)
    picture = drawn(found)
    assert picture == drawn(found)
    assert all(f">{each.name}<" in picture for each in found.contenders)
    assert 'href="http' not in picture


def test_it_comes_back_from_the_disk_and_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    assert read_confirmation(tmp_path) is None
    found = confirmation(PUBLISHED, shifted(0.02), (0.9, None, 0.9, 0.9))
    write_confirmation(tmp_path, found)
    assert read_confirmation(tmp_path) == found
    content = confirmation_json(found)
    assert (content["best_trial"], content["verdict"], content["shown"]) == (1, verdict(found), True)
    assert content["luck"]["name"] == "trial 1"
    path = tmp_path / "confirm.json"
    path.write_text(path.read_text().replace("0.93", "0.94"))
    with pytest.raises(UserError, match=r"confirm\.json.*damaged"):
        read_confirmation(tmp_path)
    assert replace(found, steps=9) != found
