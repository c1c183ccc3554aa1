"""The ledger: nothing lost, nothing repeated, whatever happened to the sweep that wrote it."""

import errno
import itertools
import json
import math
import os
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tuner.config.space_file import load_space, space_from_text
from tuner.config.space_model import SamplerName
from tuner.errors import NoRoomError, UserError
from tuner.names import JOURNAL_FILE, Setting
from tuner.search.journal import exclusive
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, make_plan
from tuner.trials import TrialRecord

SPACE = """
question: q
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {low: 0.1, high: 0.2}
      decay_factor: {choices: [4, 10]}
      max_decays: {low: 1, high: 7, step: 2}
"""
GRID = """
question: q
schedulers: [{name: fastface, parameters: {patience: {low: 10, high: 14}, decay_factor: {choices: [2, 4]}}}]
"""


def plan_of(text: str = SPACE, *, sampler: SamplerName = "random", seed: int = 0) -> Plan:
    return make_plan(space_from_text(text, file="x.yaml"), sampler=sampler, seed=seed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / JOURNAL_FILE


def value_of(settings: Mapping[str, Setting]) -> float:
    return float(settings.get("patience_fraction", 0)) + 0.01 * float(settings.get("decay_factor", 2))


def one_trial(ledger: Ledger) -> bool:
    """Run the next trial as a sweep does: a twin's result is taken over, every fourth trial fails."""
    trial = ledger.ask()
    if trial is None:
        return False
    ledger.annotate(trial.number, run_id=f"run{trial.number}")
    twin = ledger.twin(trial.number)
    if twin is not None:
        ledger.tell(trial.number, value=twin.value, reason=twin.reason, metrics=twin.metrics, duplicate_of=twin.number)
    elif trial.number % 4 == 3:
        ledger.tell(trial.number, value=math.nan, steps_executed=17)
    else:
        value = value_of(trial.settings)
        ledger.tell(trial.number, value=value, metrics={"accuracy": value}, steps_executed=600, seconds=1.5)
    return True


def run(ledger: Ledger, num_trials: int) -> list[TrialRecord]:
    while len([trial for trial in ledger.trials() if trial.state != "RUNNING"]) < num_trials and one_trial(ledger):
        pass
    return ledger.trials()


def test_the_life_of_a_trial(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    trial = ledger.ask()
    assert trial is not None
    assert (trial.number, trial.reference, trial.resumed, trial.run_id) == (0, True, False, None)
    assert trial.config.schedule().name == "fastface"
    (running,) = ledger.trials()
    assert (running.state, running.value, running.run_id) == ("RUNNING", None, None)
    ledger.annotate(0, run_id="abc")
    told = ledger.tell(0, value=0.9, metrics={"accuracy": 0.9, "final_loss": 1.25}, steps_executed=600, seconds=8.5)
    assert told == ledger.trials()[0] == ledger.best()
    assert (told.state, told.value, told.metrics) == ("COMPLETE", 0.9, {"accuracy": 0.9, "final_loss": 1.25})
    assert (told.steps_executed, told.seconds, told.run_id, told.reason) == (600, 8.5, "abc", None)
    second = ledger.ask()
    assert second is not None
    assert (second.number, second.reference) == (1, False)
    assert second.settings["patience_fraction"] == second.params["patience_fraction"]


def first_of(*settings: tuple[float, int, int], text: str = SPACE) -> str:
    names = ("patience_fraction", "decay_factor", "max_decays")
    entries = [dict(zip(names, values, strict=True)) for values in settings]
    return f"{text}    first: {json.dumps(entries)}\n"


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp"])
def test_what_the_space_wants_first_comes_before_what_is_drawn(path: Path, sampler: SamplerName) -> None:
    plan = plan_of(first_of((0.2, 10, 3), (0.15, 4, 1)), sampler=sampler)
    trials = run(Ledger.create(path, plan=plan), 5)
    found = [(trial.params["patience_fraction"], trial.params["decay_factor"]) for trial in trials[1:3]]
    assert found == [(0.2, 10), (0.15, 4)]
    assert [trial.reference for trial in trials] == [True, False, False, False, False]
    assert trials[1].settings["max_decays"] == 3
    again = Ledger.create(path.with_name("again"), plan=plan)
    while len(again.trials()) < 5:  # killed and gone on with before each trial
        again = Ledger.open(again.path)
        one_trial(again)
    assert [trial.params for trial in again.trials()] == [trial.params for trial in trials]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_the_sampler_learns_from_what_came_first(path: Path, sampler: SamplerName) -> None:
    """Two sweeps whose first settings alone differ in value draw other trials than each other."""
    plan = plan_of(first_of(*((0.1 + 0.01 * index, 10, 3) for index in range(11))), sampler=sampler)

    def drawn(sign: float, name: str) -> list[Any]:
        ledger = Ledger.create(path.with_name(name), plan=plan)
        for number in range(12):
            trial = ledger.ask()
            assert trial is not None
            ledger.tell(number, value=0.5 if trial.reference else sign * value_of(trial.settings))
        suggestion = ledger.ask()
        assert suggestion is not None
        return [*suggestion.params.values()]

    assert drawn(1.0, "up") == drawn(1.0, "same")
    assert drawn(1.0, "high") != drawn(-1.0, "low")


def test_a_grid_begins_with_what_the_space_wants_first_and_has_each_point_once(path: Path) -> None:
    wanted = [{"patience": 14, "decay_factor": 4}, {"patience": 12, "decay_factor": 2}]
    text = GRID.replace("}}}]", "}}, first: " + json.dumps(wanted) + "}]")
    ledger = Ledger.create(path, plan=plan_of(text, sampler="grid"))
    trials = run(ledger, 100)
    assert [trial.params for trial in trials[1:3]] == wanted
    tried = [json.dumps(trial.params, sort_keys=True) for trial in trials[1:]]
    assert len(set(tried)) == len(tried) == 5 * 2
    assert ledger.exhausted()


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_a_ledger_reopened_before_each_step_gives_the_same_sweep(tmp_path: Path, sampler: SamplerName) -> None:
    plan = plan_of(GRID if sampler == "grid" else SPACE, sampler=sampler)
    num_trials = 16 if sampler == "gp" else 20  # the GP draws from its eleventh success on
    whole = run(Ledger.create(tmp_path / "a", plan=plan), num_trials)
    Ledger.create(tmp_path / "b", plan=plan)
    while len(Ledger.open(tmp_path / "b", read_only=True).trials()) < num_trials:
        handed_out = Ledger.open(tmp_path / "b").ask()
        again = Ledger.open(tmp_path / "b").ask()
        if handed_out is None or again is None:
            break
        assert again == replace(handed_out, resumed=True)
        one_trial(Ledger.open(tmp_path / "b"))
    assert Ledger.open(tmp_path / "b").trials() == whole
    assert b"cma:" not in (tmp_path / "b").read_bytes()  # the journal is data: no sampler's pickled state is in it


def test_a_ledger_cut_at_any_byte_goes_on_to_the_same_table(tmp_path: Path) -> None:
    plan = plan_of(sampler="tpe")
    whole = run(Ledger.create(tmp_path / "whole", plan=plan), 5)
    content = (tmp_path / "whole").read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")][1:]
    torn = [(start + end) // 2 for start, end in itertools.pairwise(ends)]
    for cut in sorted([*ends, *torn[::2], ends[-1] - 1]):
        path = tmp_path / f"cut{cut}"
        path.write_bytes(content[:cut])
        before = Ledger.open(path, read_only=True).trials()  # a reader leaves the file alone
        assert path.read_bytes() == content[:cut]
        ledger = Ledger.open(path)
        assert any("unfinished" in line for line in ledger.mended) == (cut not in ends)
        for trial, known in zip(before, whole, strict=False):
            assert trial.state == "RUNNING" or trial == known
        assert run(ledger, 5) == whole
        assert path.read_bytes().count(b'"op_code":4') == content.count(b'"op_code":4')  # no trial made twice


def test_a_result_that_was_written_is_not_run_again(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    run(ledger, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # killed between the result and the trial's end
    assert Ledger.open(path, read_only=True).trials()[0].state == "RUNNING"
    mended = Ledger.open(path)
    assert mended.mended == ("trial 0: its result was written but not its end; closed it",)
    assert mended.trials() == ledger.trials()
    assert Ledger.open(path).mended == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_the_trial(path: Path, value: float) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    ledger.ask()
    told = ledger.tell(0, value=value, steps_executed=12)
    assert (told.state, told.value, told.steps_executed) == ("FAIL", None, 12)
    assert told.reason is not None
    assert "finite" in told.reason
    assert ledger.best() is None
    assert ledger.ask() is not None


def test_a_failure_keeps_its_reason(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    ledger.ask()
    ledger.tell(0, reason="out of memory")
    assert Ledger.open(path).trials()[0].reason == "out of memory"


def test_the_best_is_the_earliest_of_the_best_in_the_metrics_own_direction(tmp_path: Path) -> None:
    for metric, expected in (("accuracy", 1), ("final_loss", 2)):
        plan = plan_of(f"{SPACE}objective: {{metric: {metric}}}\n")
        ledger = Ledger.create(tmp_path / metric, plan=plan)
        for value in (0.5, 0.9, 0.1, 0.9, 0.1):
            trial = ledger.ask()
            assert trial is not None
            ledger.tell(trial.number, value=value)
        best = ledger.best()
        assert best is not None
        assert best.number == expected


def test_the_first_trials_are_the_references_in_file_order(path: Path) -> None:
    ledger = Ledger.create(path, plan=make_plan(load_space("baselines")))
    trials = run(ledger, 8)
    names = ["fastface", "constant", "multi_step", "cosine", "polynomial", "plateau"]
    assert [trial.scheduler for trial in trials[:6]] == names
    assert [trial.reference for trial in trials] == [True] * 6 + [False] * 2


def test_a_run_that_would_be_repeated_has_a_twin(path: Path) -> None:
    # Each of these patiences is 6 steps of 600.
    text = "question: q\nschedulers: [{name: fastface, parameters: {patience_fraction: {low: 0.01, high: 0.0116}}}]"
    ledger = Ledger.create(path, plan=plan_of(text))
    trials = run(ledger, 4)
    assert [trial.duplicate_of for trial in trials] == [None, None, 1, 1]
    assert [trial.steps_executed for trial in trials] == [600, 600, 0, 0]
    assert [trial.state for trial in trials] == ["COMPLETE"] * 4
    assert trials[2].params != trials[1].params
    assert trials[2].value == trials[1].value


def test_a_failed_setting_is_known_as_such(path: Path) -> None:
    text = "question: q\nschedulers: [{name: fastface, parameters: {patience_fraction: {low: 0.01, high: 0.0116}}}]"
    ledger = Ledger.create(path, plan=plan_of(text))
    for _ in range(2):
        trial = ledger.ask()
        assert trial is not None
        ledger.tell(trial.number, reason="diverged")
    third = ledger.ask()
    assert third is not None
    twin = ledger.twin(third.number)
    assert twin is not None
    assert (twin.number, twin.state, twin.reason) == (1, "FAIL", "diverged")


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_run_that_failed_is_not_suggested_again_while_there_are_others(path: Path, sampler: SamplerName) -> None:
    # 7 to 60 steps of 600, and every third of those fails.
    text = "question: q\nschedulers: [{name: fastface, parameters: {patience_fraction: {low: 0.011, high: 0.1}}}]"
    failed: list[str] = []
    Ledger.create(path, plan=plan_of(text, sampler=sampler))
    ledger = Ledger.open(path)
    for _ in range(40):
        trial = ledger.ask()
        again = Ledger.open(path, read_only=True).trials()[-1]  # the same in a fresh process, failures and all
        assert trial is not None
        assert again.params == trial.params
        assert again.key not in failed
        if int(float(trial.settings["patience_fraction"]) * 600) % 3 == 0:
            failed.append(again.key)
            ledger.tell(trial.number, reason="diverged")
        else:
            ledger.tell(trial.number, value=value_of(trial.settings))
    assert len(failed) > 5
    trials = Ledger.open(path).trials()
    path.unlink()
    Ledger.create(path, plan=plan_of(text, sampler=sampler))
    for known in trials:  # each step in a fresh process
        trial = Ledger.open(path).ask()
        assert trial is not None
        assert trial.params == known.params
        Ledger.open(path).tell(trial.number, value=known.value, reason=known.reason)


def test_an_interrupted_trial_keeps_the_time_that_it_has_run(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    ledger.ask()
    began = time.time()
    assert ledger.take_up(0, last_seen=began + 50) == pytest.approx(50, abs=1)
    assert Ledger.open(path).take_up(0, last_seen=0.0) == pytest.approx(50, abs=1)  # it did not get to a step
    assert Ledger.open(path).take_up(0, last_seen=time.time() + 7) == pytest.approx(57, abs=2)


def test_a_run_id_can_change_after_the_end(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    run(ledger, 2)
    ledger.annotate(0, run_id="new")
    ledger.annotate(0, run_id="newer")
    assert [trial.run_id for trial in Ledger.open(path).trials()] == ["newer", "run1"]


def test_the_grid_ends_by_itself(path: Path) -> None:
    trials = run(Ledger.create(path, plan=plan_of(GRID, sampler="grid")), 1000)
    assert len(trials) == 1 + 5 * 2  # the reference has a patience of 30 steps, outside the grid
    assert Ledger.open(path).ask() is None
    assert Ledger.open(path, read_only=True).exhausted()


def test_misuse_is_refused(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    ledger.ask()
    with pytest.raises(ValueError, match="does not exist"):
        ledger.tell(1, value=0.5)
    with pytest.raises(ValueError, match="either a value or a reason"):
        ledger.tell(0)
    with pytest.raises(ValueError, match="either a value or a reason"):
        ledger.tell(0, value=0.5, reason="both")
    ledger.tell(0, value=0.5)
    with pytest.raises(ValueError, match="only a running trial"):
        ledger.tell(0, value=0.6)
    reader = Ledger.open(path, read_only=True)
    for call in (reader.ask, lambda: reader.tell(0, value=1.0), lambda: reader.annotate(0, run_id="x")):
        with pytest.raises(ValueError, match="reading only"):
            call()


def test_a_reader_follows_a_writer(path: Path) -> None:
    writer = Ledger.create(path, plan=plan_of())
    reader = Ledger.open(path, read_only=True)
    run(writer, 3)
    assert reader.trials() == writer.trials()


def test_an_existing_sweep_is_not_overwritten(path: Path) -> None:
    run(Ledger.create(path, plan=plan_of()), 1)
    before = path.read_bytes()
    with pytest.raises(UserError, match="a sweep exists there"):
        Ledger.create(path, plan=plan_of())
    assert path.read_bytes() == before


def test_what_a_killed_creation_left_is_no_obstacle(path: Path) -> None:
    path.with_name(path.name + ".new").write_bytes(b'{"op_co')
    assert Ledger.create(path, plan=plan_of()).trials() == []
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be created"):
        Ledger.create(tmp_path / "nowhere" / JOURNAL_FILE, plan=plan_of())
    with pytest.raises(UserError, match="this folder holds no sweep"):
        Ledger.open(tmp_path / JOURNAL_FILE)
    with pytest.raises(UserError, match="this folder holds no sweep"):
        Ledger.open(tmp_path)


def sealed(record: dict[str, Any]) -> bytes:
    """Return a record's line with the checksum that it must have."""
    content = {key: value for key, value in record.items() if key != "crc32"}
    return json.dumps({**content, "crc32": zlib.crc32(json.dumps(content).encode())}).encode() + b"\n"


def test_a_digit_that_changed_in_a_record_is_noticed(path: Path) -> None:
    run(Ledger.create(path, plan=plan_of()), 3)
    content = path.read_bytes()
    assert content.count(b'"steps_executed":600') > 1
    path.write_bytes(content.replace(b'"steps_executed":600', b'"steps_executed":601', 1))
    with pytest.raises(UserError, match=r"line \d+ is damaged \(wrong checksum\)"):
        Ledger.open(path)


@pytest.mark.parametrize("part", [0, 11])
def test_on_a_full_disk_an_append_takes_back_what_it_wrote_and_waits(
    path: Path, part: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tuner.room.LOOK_SECONDS", 0.01)
    write, failures = os.write, 6

    def full(descriptor: int, data: bytes) -> int:
        nonlocal failures
        if failures == 0:
            return write(descriptor, data)
        failures -= 1
        if part and failures % 2:  # the disk takes a part before it is full
            return write(descriptor, data[:part])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected = run(Ledger.create(path.with_name("whole"), plan=plan_of()), 2)
    ledger = Ledger.create(path, plan=plan_of())
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert run(ledger, 2) == expected
    assert failures == 0
    assert Ledger.open(path).trials() == expected
    assert caplog.text.count("paused") == caplog.text.count("going on") == 1
    assert str(path) in caplog.text


def test_a_disk_that_stays_full_ends_the_wait_and_leaves_the_ledger_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    run(ledger, 1)
    before = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tuner.room.PATIENCE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NoRoomError, match="make room, then resume"):
            ledger.ask()
    assert path.read_bytes() == before
    assert run(ledger, 2) == run(Ledger.create(path.with_name("whole"), plan=plan_of()), 2)


def test_a_last_line_without_its_beginning_was_never_written(path: Path) -> None:
    """As after a power cut: the file has its new length, but not all of its content."""
    whole = run(Ledger.create(path, plan=plan_of()), 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + bytes(len(lines[-1]) - 20) + lines[-1][-20:])
    assert [trial.state for trial in Ledger.open(path, read_only=True).trials()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    ledger = Ledger.open(path)
    assert f"cut {len(lines[-1])} bytes" in ledger.mended[0]
    assert ledger.trials() == whole
    assert run(ledger, 4)[:3] == whole


def damaged(path: Path, line: int, content: bytes) -> None:
    run(Ledger.create(path, plan=plan_of()), 2)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = content
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x00" * 40 + b"\n", "line 4 is damaged"),
        (b'{"op_code": 4, "tri\n', "line 4 is damaged"),
        (b"\xff\xfe\n", "line 4 is damaged"),
        (b"[1, 2]\n", "line 4 is no record"),
        (b'{"a": 1}\n', "line 4 is no record"),
        (b'{"op_code": 99, "worker_id": "x"}\n', "do not make a study"),
        (b'{"op_code": 8, "worker_id": "x", "trial_id": 0}\n', "do not make a study"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_journal_is_an_error_that_names_file_and_line(
    path: Path, content: bytes, expected: str, read_only: bool
) -> None:
    damaged(path, 4, content)
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        Ledger.open(path, read_only=read_only)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert path.read_bytes() == before


def test_a_foreign_file_is_an_error_that_names_it(path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(storage=storage, study_name="theirs")
    with pytest.raises(UserError, match="not of a sweep of this tool"):
        Ledger.open(path)
    for content in (b"step,loss\n0,1.5\n", b"\x89PNG\r\n\x1a\n\x00\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="line 1"):
            Ledger.open(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not of a sweep of this tool"):
        Ledger.open(path)


def test_a_journal_of_another_format_is_refused(path: Path) -> None:
    Ledger.create(path, plan=plan_of())
    lines = path.read_bytes().replace(b'"format":1', b'"format":7').splitlines()
    path.write_bytes(b"".join(sealed(json.loads(line)) for line in lines))
    with pytest.raises(UserError, match="written in format 7, but this version reads format 1"):
        Ledger.open(path)


def test_trials_of_other_programs_are_refused(path: Path) -> None:
    run(Ledger.create(path, plan=plan_of()), 1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="sweep", storage=JournalStorage(JournalFileBackend(str(path))))
    study.enqueue_trial({"decay_factor": 4})
    with pytest.raises(UserError, match="trial 1 was not made by this tool"):
        Ledger.open(path)


def test_optunas_own_tools_read_the_journal(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    run(ledger, 16)
    study = optuna.load_study(study_name="sweep", storage=JournalStorage(JournalFileBackend(str(path))))
    best = ledger.best()
    assert best is not None
    assert (study.best_trial.number, study.best_value) == (best.number, best.value)
    # The published decay factor of 2, patience of 0.05 and 8 decays all lie outside the space; nothing is dropped.
    assert study.trials[0].params == {"patience_fraction": 0.05, "decay_factor": 2, "max_decays": 8}
    assert optuna.importance.get_param_importances(study).keys() == study.trials[0].params.keys()
    drawn = [trial.params for trial in ledger.trials() if not trial.reference]
    assert all(trial["decay_factor"] in (4, 10) and float(trial["patience_fraction"]) >= 0.1 for trial in drawn)


def test_a_killed_writers_unfinished_line_is_cut_before_the_next_record(path: Path) -> None:
    ledger = Ledger.create(path, plan=plan_of())
    run(ledger, 1)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"dead')
    trial = ledger.ask()  # the writer may also have been this process, its disk full
    assert trial is not None
    assert trial.number == 1
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert len(Ledger.open(path).trials()) == 2


def test_appends_exclude_each_other(path: Path) -> None:
    path.write_bytes(b"")
    taken = threading.Event()

    def wait() -> None:
        with exclusive(path):
            taken.set()

    with exclusive(path):
        threading.Thread(target=wait, daemon=True).start()
        assert not taken.wait(0.1)
    assert taken.wait(5)


def long_journal(path: Path, num_trials: int) -> None:
    """Write a sweep of many trials by copying the records of one."""
    run(Ledger.create(path, plan=make_plan(load_space("fastface"), sampler="random")), 2)
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    begin = max(index for index, record in enumerate(records) if record["op_code"] == 4)
    trial: list[dict[str, Any]] = records[begin:]
    for number in range(2, num_trials):
        records += [{**record, "trial_id": number} if "trial_id" in record else record for record in trial]
    path.write_bytes(b"".join(map(sealed, records)))


def test_a_sweep_of_a_thousand_trials_opens_within_a_second(path: Path) -> None:
    long_journal(path, 1000)
    started = time.perf_counter()
    trials = Ledger.open(path).trials()
    seconds = time.perf_counter() - started
    assert len(trials) == 1000
    assert {trial.state for trial in trials} == {"COMPLETE"}
    assert seconds < 1
