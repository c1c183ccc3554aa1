"""Names that several rooms share: files of a sweep folder, metric keys, tags, environment variables."""

from typing import Final

FORMAT_VERSION: Final = 1
"""Version of the files in a sweep folder; raised when a reader of the old form would misread the new one."""

SWEEP_FILE: Final = "sweep.yaml"
JOURNAL_FILE: Final = "study.journal"
TRIALS_DIR: Final = "trials"
CURVE_FILE: Final = "curve.csv"
EVALUATIONS_FILE: Final = "evaluations.jsonl"
CONFIG_FILE: Final = "config.yaml"
ENVIRONMENT_FILE: Final = "environment.json"
REPORT_FILE: Final = "report.html"
TRACEBACK_FILE: Final = "traceback.txt"
LOCK_FILE: Final = "sweep.lock"
RUN_FILE: Final = "run.json"
"""The record of a single run, as `fastface-tuner train` makes it, or of one of a confirmation."""
RUN_LOCK_FILE: Final = "run.lock"
WEIGHTS_FILE: Final = "backbone.pth"
"""The trained backbone of a single run: a state dict in the layout of arcface_torch."""
VERIFY_FILE: Final = "verify.json"
VERIFY_DIR: Final = "verify"
"""Trials of a sweep that were trained again, without sharing, to compare."""
CONFIRM_FILE: Final = "confirm.json"
CONFIRM_DIR: Final = "confirm"
"""The best settings of a sweep trained again with new seeds: a folder for each run."""
SWEEPS_DIR: Final = "sweeps"
RUNS_DIR: Final = "runs"
STAGES_DIR: Final = "stages"
"""The stage store: what the sweeps of one working folder have trained, shared by all of them."""

SYNTHETIC: Final = "synthetic"
"""The `--data` value that stands for the embedded rendered faces."""

METRIC_LOSS: Final = "loss"
METRIC_LR: Final = "lr"
METRIC_RESPONSE: Final = "detector_response"
METRIC_ACCURACY: Final = "accuracy"
METRIC_FINAL_LOSS: Final = "final_loss"
METRIC_ACCURACY_STD: Final = "accuracy_std"
METRIC_TAR: Final = "tar_at_far"

EXPERIMENT: Final = "fastface-tuner"
DEFAULT_TRACKING_URI: Final = "sqlite:///mlflow.db"
TRACKING_URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
CACHE_VARIABLE: Final = "FASTFACE_TUNER_CACHE"

Setting = float | int | str
"""A value that a scheduler setting or a searched parameter takes."""

TAG_KIND: Final = "fastface_tuner.kind"
"""MLflow tag of every run: "sweep", "confirmation" (beside its sweep), "trial" (below either), "run" (one alone)."""
TAG_VERIFIED: Final = "sharing_verified"
"""MLflow tag of a parent run: how many of the trials trained again were equal."""
TAG_CONFIRMS: Final = "fastface_tuner.confirms"
"""MLflow tag of a confirmation: the run of the sweep that it confirms."""
TAG_FOLDER: Final = "fastface_tuner.folder"
"""MLflow tag of a parent run: the sweep's folder, or the confirmation's."""
TAG_DESCRIPTION: Final = "mlflow.note.content"
"""MLflow's tag for the text that its UI shows with a run."""
TAG_TRIAL: Final = "fastface_tuner.trial"
"""MLflow tag of a child run: its trial number."""
TAG_SHARED_WITH: Final = "shared_with"
"""MLflow tag of a child run: the runs whose steps it took over, and how many of each."""


def set_metrics(name: str) -> tuple[str, str, str]:
    """Return the metrics of the verification set `name`: accuracy, its standard deviation, TAR at the FAR."""
    return f"{METRIC_ACCURACY}_{name}", f"{METRIC_ACCURACY_STD}_{name}", f"tar_{name}"
