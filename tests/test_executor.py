"""Ray Tune as executor: order, one process or several, and what becomes of errors."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle, tune

from tuner.errors import UserError
from tuner.sweep.ending import Ending
from tuner.sweep.executor import execute
from tuner.sweep.jobs import FAILED, STOP_FILE, STOPPED, Job
from tuner.sweep.lanes import Lanes


class Actor(tune.Trainable):
    """Reports twice; dies in trial 1, and gives up in trial 3."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.number, self.endless, self.reports = new_config["number"], new_config["endless"], 0
        self.stop_file = Path(new_config[STOP_FILE])
        return True

    def step(self) -> dict[str, Any]:
        if self.number == 1:
            os._exit(1)
        self.reports += 1
        if self.number == 3:
            assert self.reports == 1, "so that Tune ends the process"
            return {"pid": os.getpid(), FAILED: "beyond repair", "done": False}
        while self.endless and self.reports > 1:
            if self.stop_file.exists():
                return {STOPPED: True, "done": True}
            time.sleep(0.01)
        return {"pid": os.getpid(), "reports": self.reports, "done": self.reports == 2}


class Source:
    """Hands out five trials and keeps what it hears, in order."""

    def __init__(self, *, refuse: int | None = None, endless: bool = False) -> None:
        self.refuse, self.endless = refuse, endless
        self.heard: list[tuple[str, int]] = []
        self.results: dict[int, Mapping[str, Any] | None] = {}
        self.given = 0

    def next_trial(self) -> Job | None:
        if self.given == 5:
            return None
        self.heard.append(("asked", self.given))
        self.given += 1
        return Job(self.given - 1, {"number": self.given - 1, "endless": self.endless})

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        self.heard.append(("moved", number))
        assert not result["done"]
        if self.endless:
            signal.raise_signal(signal.SIGTERM)

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        if number == self.refuse:
            raise UserError("the ledger must be writable")
        self.heard.append(("ended", number))
        self.results[number] = result


@pytest.fixture(scope="module", autouse=True)
def _one_ray() -> Any:
    # The actor's process cannot import the tests: it gets the class itself.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_trials_run_one_after_another_and_a_process_that_dies_or_gives_up_costs_one_of_them() -> None:
    source = Source()
    execute(source, Actor, ending=Ending())
    order = [number for word, number in source.heard if word == "asked"]
    assert order == list(range(5))
    for number in range(4):  # nothing of a trial is heard after the next one was asked for
        assert source.heard.index(("ended", number)) < source.heard.index(("asked", number + 1))
    assert source.results[1] is None
    failed = source.results[3]
    assert failed is not None
    assert failed[FAILED] == "beyond repair"
    pids = {number: source.results[number]["pid"] for number in (0, 2, 3, 4)}  # type: ignore[index]
    assert pids[0] != pids[2] == pids[3] != pids[4]
    assert all(source.results[number]["reports"] == 2 for number in (0, 2, 4))  # type: ignore[index]


def test_an_error_of_the_source_ends_the_sweep_and_comes_out() -> None:
    source = Source(refuse=2)
    with pytest.raises(UserError, match="must be writable"):
        execute(source, Actor, ending=Ending())
    assert source.given == 3


def test_an_interruption_lets_the_trial_stop_and_is_raised_then() -> None:
    source = Source(endless=True)
    with pytest.raises(SystemExit) as raised, Ending() as ending:
        execute(source, Actor, ending=ending)
    assert raised.value.code == 143
    assert source.given == 1
    assert [word for word, _ in source.heard] == ["asked", "moved"]  # no ending: the trial is to go on


class Meeting(tune.Trainable):
    """Ends only when its partner runs too; one whose file says so dies instead, once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.number, self.folder = new_config["number"], Path(new_config["folder"])
        self.stop_file = Path(new_config[STOP_FILE])
        return True

    def step(self) -> dict[str, Any]:
        (self.folder / str(self.number)).touch()  # not before: Tune may still give the trial to another process
        while not (self.folder / str(self.number ^ 1)).exists():
            time.sleep(0.01)
        while (self.folder / "wait").exists() and self.number == 1:
            if self.stop_file.exists():
                return {STOPPED: True, "done": True}
            time.sleep(0.01)
        dies = self.folder / f"{self.number} dies"
        if dies.exists():
            dies.unlink()
            os._exit(1)
        return {"pid": os.getpid(), "done": True}


class Pairs:
    """Hands out trials 0 to 3, and again one whose process was lost."""

    def __init__(self, folder: Path, *, refuse: int | None = None) -> None:
        self.folder, self.refuse, self.waiting = folder, refuse, [0, 1, 2, 3]
        self.asked: list[int] = []
        self.results: dict[int, Mapping[str, Any]] = {}

    def next_trial(self) -> Job | None:
        if not self.waiting:
            return None
        self.asked.append(self.waiting.pop(0))
        return Job(self.asked[-1], {"number": self.asked[-1], "folder": str(self.folder)})

    def moved(self, number: int, result: Mapping[str, Any]) -> None: ...

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        if number == self.refuse:
            raise UserError("the ledger must be writable")
        if result is None:
            self.waiting.append(number)
        else:
            self.results[number] = result


@pytest.mark.parametrize("dying", [(), (3,)])
def test_two_trials_run_side_by_side_and_one_that_is_lost_runs_again(tmp_path: Path, dying: Sequence[int]) -> None:
    for number in dying:
        (tmp_path / f"{number} dies").touch()
    source = Pairs(tmp_path)
    execute(source, Meeting, ending=Ending(), lanes=Lanes(number=2, threads=1))
    assert source.asked == [0, 1, 2, 3, *dying]
    assert sorted(source.results) == [0, 1, 2, 3]
    pids = [source.results[number]["pid"] for number in (0, 1)]
    assert pids[0] != pids[1]
    if not dying:
        assert {source.results[number]["pid"] for number in (2, 3)} == {*pids}


def test_an_error_of_the_source_stops_the_other_trials_too(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    source = Pairs(tmp_path, refuse=0)
    with pytest.raises(UserError, match="must be writable"):
        execute(source, Meeting, ending=Ending(), lanes=Lanes(number=2, threads=1))
    assert source.asked == [0, 1]
    assert source.results == {}
