"""What a trial costs besides its training: the stock glue against this project's own path, in one run.

Both run a trivial objective that reports 50 losses, one trial after another, and log the
whole curve to MLflow on SQLite:

    stock   function trainable, OptunaSearch (TPE) and Ray's MLflowLoggerCallback
    ours    the sweep of this project (ledger in a journal file, kept actor, curve file mirrored into MLflow), with an
            actor that writes the same curve instead of training

Start-up (ray.init, imports, the store's migration) is not counted in either; sending the last trial's curve is.

    python benchmarks/overhead.py --trials 12
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from machine import banner
from mlflow import MlflowClient
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from tuner.config.space_file import load_space
from tuner.curves import CurvePoint, CurveWriter
from tuner.names import CURVE_FILE
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.run import run_trials
from tuner.sweep.source import Sharing
from tuner.tracking.runs import start_sweep
from tuner.tracking.store import connect

REPORTS = 50


def loss(step: int, patience: float) -> float:
    """Return the trivial objective: a falling curve that depends on one hyperparameter."""
    return math.exp(-step / REPORTS) + patience


def stock_objective(config: dict[str, float]) -> None:
    """Report every step to Tune, as a function trainable does."""
    for step in range(REPORTS):
        tune.report({"loss": loss(step, config["patience_fraction"]), "lr": 0.1})


class CurveActor(tune.Trainable):
    """Writes the curve that a training would write, and ends."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start with the first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.folder = Path(new_config["folder"])
        self.patience = new_config["run"]["scheduler"]["settings"]["patience_fraction"]
        return True

    def step(self) -> dict[str, Any]:
        """Write all steps and report, as a trial of half a second does."""
        with CurveWriter(self.folder / CURVE_FILE) as curve:
            for step in range(REPORTS):
                curve.write(CurvePoint(step, loss(step, self.patience), 0.1))
        metrics = [("accuracy", self.patience)]
        counts = {
            "steps_executed": REPORTS,
            "steps_repeated": 0,
            "steps_shared": 0,
            "shared_with": [],
            "shelf": None,
            "deterministic": True,
            "messages": [],
        }
        return {"steps": REPORTS, "loss": 0.0, "lr": 0.1, "metrics": metrics, "done": True, **counts}


def run_stock(trials: int, folder: Path) -> tuple[float, MlflowClient]:
    """Return the seconds per trial of the stock glue."""
    uri = f"sqlite:///{folder}/mlflow.db"
    connect(uri, experiment="stock")  # migrate the store before the clock starts
    tuner = tune.Tuner(
        tune.with_resources(stock_objective, {"cpu": 1}),
        param_space={"patience_fraction": tune.loguniform(0.01, 0.2)},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="loss", mode="min", seed=0), num_samples=trials, max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(
            name="stock",
            storage_path=str(folder / "ray"),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="stock")],
        ),
    )
    started = time.perf_counter()
    tuner.fit()
    return (time.perf_counter() - started) / trials, MlflowClient(uri)


def run_ours(trials: int, folder: Path) -> tuple[float, MlflowClient]:
    """Return the seconds per trial of this project's path."""
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = connect(uri)
    plan = make_plan(load_space("fastface"), steps=REPORTS, seed=0)
    sweep = SweepFolder(folder / "ours")
    parent = start_sweep(tracker, name="ours", params={})
    sweep.write(SweepDescription(name="ours", trials=trials, tracking_uri=uri, parent_run_id=parent))
    ledger = Ledger.create(sweep.journal, plan=plan)
    quiet = Console(file=(folder / "progress.txt").open("w"))
    started = time.perf_counter()
    unshared = Sharing(store=None, checkpoint_budget=0)
    run_trials(
        ledger,
        folder=sweep,
        tracker=tracker,
        sharing=unshared,
        console=quiet,
        ending=Ending(),
        actor=CurveActor,
    )
    return (time.perf_counter() - started) / trials, MlflowClient(uri)


def points_logged(client: MlflowClient) -> int:
    """Count the losses that reached MLflow: both paths must have logged every one."""
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return sum(len(client.get_metric_history(run.info.run_id, "loss")) for run in runs)


def main() -> None:
    """Run both paths in turn and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="each round runs both paths once")
    options = parser.parse_args()
    print(banner("ray", "optuna", "mlflow"))
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    figures: dict[str, list[float]] = {"stock": [], "ours": []}
    for number in range(options.rounds):
        for name, run in (("stock", run_stock), ("ours", run_ours)):
            with tempfile.TemporaryDirectory() as folder:
                seconds, client = run(options.trials, Path(folder))
                logged = points_logged(client)
            if logged != options.trials * REPORTS:
                raise SystemExit(f"{name} logged {logged} of {options.trials * REPORTS} losses: not comparable")
            figures[name].append(seconds)
            print(f"round {number}  {name:5}  {seconds:.3f} s a trial, {logged} losses in MLflow", flush=True)
    ratios = [stock / ours for stock, ours in zip(figures["stock"], figures["ours"], strict=True)]
    for name, values in figures.items():
        print(f"{name:5}  median {statistics.median(values):.3f} s a trial  ({min(values):.3f} to {max(values):.3f})")
    print(f"stock / ours  median {statistics.median(ratios):.1f}  ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
