"""Ray Tune as executor: order, one process, and what becomes of errors."""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import ray
from ray import cloudpickle, tune

from tuner.errors import UserError
from tuner.sweep.executor import Ending, execute
from tuner.sweep.jobs import Job


class Actor(tune.Trainable):
    """Reports twice, and dies in trial 1."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.number, self.reports = new_config["number"], 0
        return True

    def step(self) -> dict[str, Any]:
        if self.number == 1:
            os._exit(1)
        self.reports += 1
        return {"pid": os.getpid(), "reports": self.reports, "done": self.reports == 2}


class Source:
    """Hands out five trials and keeps what it hears, in order."""

    def __init__(self, *, refuse: int | None = None) -> None:
        self.refuse = refuse
        self.heard: list[tuple[str, int]] = []
        self.results: dict[int, Mapping[str, Any] | None] = {}
        self.given = 0

    def next_trial(self) -> Job | None:
        if self.given == 5:
            return None
        self.heard.append(("asked", self.given))
        self.given += 1
        return Job(self.given - 1, {"number": self.given - 1})

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        self.heard.append(("moved", number))
        assert not result["done"]

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        if number == self.refuse:
            raise UserError("the ledger must be writable")
        self.heard.append(("ended", number))
        self.results[number] = result


@pytest.fixture(scope="module", autouse=True)
def _one_ray() -> Any:
    # The actor's process cannot import the tests: it gets the class itself.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


def test_trials_run_one_after_another_and_a_dead_process_costs_one_of_them() -> None:
    source = Source()
    execute(source, Actor)
    order = [number for word, number in source.heard if word == "asked"]
    assert order == list(range(5))
    for number in range(4):  # nothing of a trial is heard after the next one was asked for
        assert source.heard.index(("ended", number)) < source.heard.index(("asked", number + 1))
    assert source.results[1] is None
    assert all(source.results[number]["reports"] == 2 for number in (0, 2, 3, 4))  # type: ignore[index]
    assert len({source.results[number]["pid"] for number in (2, 3, 4)}) == 1  # type: ignore[index]


def test_an_error_of_the_source_ends_the_sweep_and_comes_out() -> None:
    source = Source(refuse=2)
    with pytest.raises(UserError, match="must be writable"):
        execute(source, Actor)
    assert source.given == 3


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interruption_that_got_lost_on_its_way_is_raised_again(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(raised), Ending() as ending:
        with suppress(raised):
            signal.raise_signal(number)
        with suppress(raised):
            ending.check()
    assert signal.getsignal(number) == before
