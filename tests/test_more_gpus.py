"""Several trials at a time: on one machine, on a Ray cluster that loses a node, with the ledger in a database."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from mirrored import trial_runs, wait_until
from mlflow import MlflowClient
from plain_executor import stand_in
from postgres import PASSWORD, Postgres, installed
from ray.cluster_utils import Cluster
from rich.console import Console
from tracking_server import TrackingServer

from tuner.config.own_code import sources_digest
from tuner.curves import read_curve
from tuner.names import CURVE_FILE, STORAGE_VARIABLE, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.resume import resume_sweep
from tuner.sweep.status import sweep_status

TRIALS, STEPS = 6, 30
WORKLOAD = """
import time
from pathlib import Path

import torch


class Slow:
    metrics = {"error": "minimize"}
    base_lr = 0.05

    def __init__(self, settings, *, seed, device):
        self.weight = torch.zeros(3, device=device)

    def training_step(self, step, lr):
        time.sleep(0.03)
        while step >= 12 and Path("gate").exists():
            time.sleep(0.05)
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        away = inputs @ (self.weight - 1)
        self.weight = self.weight - lr * inputs.T @ away / 4
        return away.square().mean()

    def evaluate(self):
        return {"error": (self.weight - 1).square().sum().item()}

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, state):
        self.weight = state["weight"]
"""
SPACE = f"""
question: q
steps: {STEPS}
trials: {TRIALS}
sampler: random
workload: {{name: "slow_training:Slow"}}
schedulers:
  - name: fastface
    parameters:
      threshold_fraction: {{low: 0.5, high: 50, log: true}}
      patience_fraction: {{low: 0.05, high: 0.3}}
      decay_factor: {{low: 2, high: 10}}
"""


@pytest.fixture
def workplace(tmp_path: Path, mlflow_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working folder with a space whose trials are slow, and wait at a gate while there is one."""
    mlflow_store(tmp_path)
    (tmp_path / "slow_training.py").write_text(WORKLOAD)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("slow_training", None)
    sources_digest.cache_clear()


@pytest.fixture
def database() -> Iterator[Postgres | None]:
    """Return a PostgreSQL for the ledger, None where there is none to start."""
    if installed() is None or find_spec("psycopg") is None:
        yield None
        return
    with Postgres() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> Iterator[TrackingServer]:
    """Return a tracking server that is starting."""
    server = TrackingServer(tmp_path / "server", mlflow_store(tmp_path / "server"))
    try:
        server.start(wait=False)
        yield server
    finally:
        server.kill()


def ledger(name: str = "wide") -> Ledger:
    return Ledger.open(SweepFolder(Path("sweeps") / name).journal, read_only=True)


def trials_under_way() -> list[int]:
    """Return how many steps each trial has done that runs; -1: none."""
    status = sweep_status(SweepFolder(Path("sweeps/wide")), running=True).as_json()
    running = [status["under_way"], *status["others_under_way"]]
    return [-1 if each is None else each["steps_done"] for each in running]


def sequential(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the space one trial after another in this process, on one CPU thread and sharing nothing."""
    with monkeypatch.context() as patch:
        stand_in(patch)
        patch.setattr("tuner.sweep.lanes.num_cores", lambda: 1)
        patch.delenv(STORAGE_VARIABLE, raising=False)
        asked = Asked(space="space.yaml", name=name, share=False)
        new_sweep(asked, console=Console(file=io.StringIO()), ending=Ending())


def same_trials(name: str, other: str) -> None:
    """Check that two sweeps have the same trials, bit for bit."""
    one, two = (
        [(each.number, each.state, each.params, each.value, each.metrics) for each in ledger(sweep).trials()]
        for sweep in (name, other)
    )
    assert one == two
    assert len(one) == TRIALS
    for number in range(TRIALS):
        curves = [SweepFolder(Path("sweeps") / each).trial(number) / CURVE_FILE for each in (name, other)]
        assert curves[0].read_bytes() == curves[1].read_bytes()


def nothing_trained_twice(name: str) -> None:
    """Check that the trials of a sweep trained each step that they have in common once."""
    curves = [read_curve(SweepFolder(Path("sweeps") / name).trial(number) / CURVE_FILE) for number in range(TRIALS)]
    lrs = [tuple(report.lr for report in curve) for curve in curves]
    distinct = {each[:stop] for each in lrs for stop in range(1, STEPS + 1)}
    assert len(distinct) < TRIALS * STEPS  # they do have some in common
    assert sum(each.steps_executed - each.steps_repeated for each in ledger(name).trials()) == len(distinct)


def mlflow_has_all(name: str) -> None:
    """Check that all runs have ended, and that those of trials have their whole curves."""
    description = SweepFolder(Path("sweeps") / name).read()
    client = MlflowClient(description.tracking_uri)
    runs = trial_runs(client, description.parent_run_id)
    assert len(runs) == TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert client.get_run(description.parent_run_id).info.status == "FINISHED"
    for run in runs:
        curve = client.get_metric_history(run.info.run_id, "loss")
        assert sorted({point.step for point in curve}) == [*range(STEPS)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a Ray cluster of real processes: a head on which nothing runs, and two nodes for a trial each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def test_a_node_that_is_lost_costs_no_finished_trial_and_the_trials_are_those_of_a_sequential_sweep(
    cluster: Cluster,
    database: Postgres | None,
    server: TrackingServer,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = cluster.add_node(num_cpus=1)
    gate, output = Path("gate"), Path("output.txt")
    if database is not None:
        monkeypatch.setenv(STORAGE_VARIABLE, database.url)
    environment = {**os.environ, TRACKING_URI_VARIABLE: server.uri}
    server.start()
    command = [sys.executable, "-m", "tuner.cli.main", "sweep", "space.yaml", "--name", "wide"]
    with (
        output.open("w") as file,
        subprocess.Popen(
            [*command, "--ray-address", cluster.address], stdout=file, stderr=subprocess.STDOUT, env=environment
        ) as process,
    ):
        try:
            wait_until(lambda: ": error" in output.read_text() or process.poll() is not None, seconds=180)
            gate.touch()
            wait_until(lambda: len(under_way := trials_under_way()) == 2 and min(under_way) >= 6, seconds=90)
            before = {record.number: record for record in ledger().trials() if record.state == "COMPLETE"}
            assert before
            cluster.remove_node(lost, allow_graceful=False)
            wait_until(lambda: "its process was lost" in output.read_text() or process.poll() is not None, seconds=180)
            gate.unlink()
            assert process.wait(timeout=180) == 0, output.read_text()
        finally:
            process.kill()
    said = output.read_text()
    assert "goes on from its last recorded step (loss 1 in a row, of 3 at most)" in said
    after = [record for record in ledger().trials() if record.number in before]
    assert [replace(record, mirrored=True) for record in after] == [
        replace(record, mirrored=True) for record in before.values()
    ]
    assert cluster.head_node.any_processes_alive()  # it is not ours to end
    assert not [path for path in Path("sweeps/wide").iterdir() if "fastface-tuner" in path.name]
    sequential("one", monkeypatch)
    same_trials("one", "wide")
    nothing_trained_twice("wide")
    mlflow_has_all("wide")
    if database is not None:
        left = [path for path in workplace.rglob("*") if path.is_file()]
        assert [path for path in left if PASSWORD.encode() in path.read_bytes()] == []

    # It goes on as any other, one trial after another on this machine, and tidies up after a driver that was killed.
    (scratch := Path("sweeps/wide/fastface-tuner-1-abc")).mkdir()
    with monkeypatch.context() as patch:
        stand_in(patch)
        asked = Asked(trials=TRIALS + 1)
        resume_sweep(SweepFolder(Path("sweeps/wide")), asked, console=Console(file=io.StringIO()), ending=Ending())
    assert [record.state for record in ledger().trials()] == ["COMPLETE"] * (TRIALS + 1)
    assert not scratch.exists()
