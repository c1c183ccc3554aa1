"""Processes that share a shelf at the same time: as many steps are trained as there are, also where some are killed."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from stages_toy import FINGERPRINT, Toy, alone, decaying, lrs, plan, quick_disk, shared  # noqa: F401
from torch import Tensor

from tuner.stages import runner
from tuner.stages.events import Waiting
from tuner.stages.store import StageStore
from tuner.training.loop import StepReport

EVALUATE_AT = (20, 60)
PLANS = (decaying(9), decaying(3), decaying(3, factor=3.0), plan("constant"), plan("multi_step", {"milestones": "31"}))
ORDERS = ((0, 1, 2), (0, 2, 4), (3, 1, 0), (1, 3, 4))
"""Plans that each process runs, one after the other."""


class Slow(Toy):
    """Takes long enough for others to come along."""

    def training_step(self, step: int, lr: float) -> Tensor:
        time.sleep(0.002)
        return super().training_step(step, lr)


def _run(folder: str, numbers: tuple[int, ...], connection: Connection) -> None:
    """Run trials once told to, and send for each what it gave and how many new steps it took."""
    _make_quick()
    connection.send("ready")
    connection.recv()
    store = StageStore(Path(folder))
    for number in numbers:
        result, counts = shared(PLANS[number], store.shelf(FINGERPRINT), EVALUATE_AT, build=Slow, checkpoint_every=10)
        connection.send((result, counts.executed - counts.repeated))
    connection.close()


def _hang(folder: str, steps: int, connection: Connection) -> None:
    """Train so many steps, and then never end; a process forked off this one outlives it."""
    _make_quick()
    events = _shared_run(folder, Toy).events()
    for _ in range(steps):
        next(events)
    if os.fork() == 0:
        with suppress(EOFError):
            connection.recv()
        os._exit(0)
    connection.send("hangs")
    time.sleep(60)


def _follow(folder: str, number: int, connection: Connection) -> None:
    """Run a trial that must wait for another one, say so, and send what it gave."""
    _make_quick()
    run = _shared_run(folder, Slow)
    reports, told = [], False
    for event in run.events():
        if isinstance(event, StepReport):
            reports.append(event)
        elif isinstance(event, Waiting) and not told:
            told = True
            connection.send("waits")
    connection.send((reports, run.counts.executed - run.counts.repeated))


def _shared_run(folder: str, build: Callable[[], Toy]) -> runner.SharedRun:
    shelf = StageStore(Path(folder)).shelf(FINGERPRINT)
    return runner.SharedRun(PLANS[0], build=build, shelf=shelf, checkpoint_every=10)


def _make_quick() -> None:
    logging.disable()
    runner.LOOK_SECONDS = 0.01
    os.fsync = lambda _: None  # type: ignore[assignment]


@pytest.fixture
def start(tmp_path: Path) -> Iterator["Starter"]:
    starter = Starter(tmp_path)
    yield starter
    starter.end()


class Starter:
    """Starts processes on one store, and ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["hypothesis", "pytest", "tuner.stages.runner"])
        self._all: list[tuple[BaseProcess, Connection]] = []

    def __call__(self, target: Callable[..., None], argument: object) -> tuple[BaseProcess, Connection]:
        here, there = self._context.Pipe()
        process = self._context.Process(target=target, args=(str(self._folder), argument, there), daemon=True)
        process.start()
        there.close()
        self._all.append((process, here))
        return process, here

    def end(self) -> None:
        for process, connection in self._all:
            connection.close()
            process.kill()
            process.join()


def received(connection: Connection) -> Any:
    assert connection.poll(60)
    return connection.recv()


def test_four_processes_train_each_step_once(start: Starter) -> None:
    connections = [start(_run, numbers)[1] for numbers in ORDERS]
    for connection in connections:
        assert received(connection) == "ready"
    for connection in connections:
        connection.send("go")
    trained = 0
    for numbers, connection in zip(ORDERS, connections, strict=True):
        for number in numbers:
            result, new_steps = received(connection)
            assert result == alone(PLANS[number], EVALUATE_AT)
            trained += new_steps
    histories = [lrs(alone(each)) for each in PLANS]
    assert trained == len({tuple(history[:stop]) for history in histories for stop in range(1, 61)})


@pytest.mark.parametrize("steps", [1, 33])
def test_where_a_process_is_killed_exactly_one_of_its_followers_goes_on(start: Starter, steps: int) -> None:
    leader, hangs = start(_hang, steps)
    assert received(hangs) == "hangs"
    followers = [start(_follow, number)[1] for number in range(2)]
    for connection in followers:
        assert received(connection) == "waits"
    leader.kill()
    leader.join()
    results = [received(connection) for connection in followers]
    expected, _ = alone(PLANS[0])
    assert [reports for reports, _ in results] == [expected, expected]
    assert sorted(new_steps for _, new_steps in results) == [0, 60 - steps]
