"""Verification sets in training: what a run reports, what its fingerprint holds, and what is told before a sweep."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from plain_executor import stand_in
from records import encoded_face, face_pixels
from rich.console import Console
from sklearn.metrics import accuracy_score, roc_curve
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from tuner.config.run import FaceConfig, RunConfig
from tuner.data.verification_sets import load_verification_set
from tuner.errors import UserError
from tuner.models.backbones import build_backbone
from tuner.search.ledger import Ledger
from tuner.stages.store import StageStore
from tuner.stages.trial import run_trial
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.resume import resume_sweep
from tuner.training.face import FaceWorkload
from tuner.training.faces import prepare_faces, prepare_sets

CPU = torch.device("cpu")
SIZE = 32
WORKLOAD: dict[str, dict[str, Any]] = {
    "data": {"image_size": SIZE, "identities": 8, "images_per_identity": 4},
    "model": {"embedding_size": 8},
    "optimizer": {"batch_size": 8},
    "evaluation": {"pairs": 20, "far": 0.2, "times": 1},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_set(path: Path, *, first: int = 0, num_pairs: int = 20) -> Path:
    """Write a `.bin` set of noise at the run's own size, every other pair an image with itself, and one pair wrong."""
    same = [number % 2 == 0 for number in range(num_pairs)]
    images: list[bytes] = []
    for number, flag in enumerate(same):
        left = encoded_face(first + 2 * number, size=SIZE)
        images += [left, left if flag and number else encoded_face(first + 2 * number + 1, size=SIZE)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps((images, same)))
    return path


def configured(*sets: Path, **changes: dict[str, Any]) -> FaceConfig:
    parts = {name: {**value, **changes.get(name, {})} for name, value in WORKLOAD.items()}
    parts["evaluation"]["sets"] = [str(path) for path in sets]
    return FaceConfig.model_validate(parts)


def built(config: FaceConfig) -> FaceWorkload:
    train, verification = prepare_faces(config.data)
    return FaceWorkload(config, seed=0, train=train, verification=verification, sets=prepare_sets(config), device=CPU)


def reference(path: Path, workload: FaceWorkload, *, far: float) -> tuple[float, float, float]:
    """Follow the published protocol word by word with the workload's network, from the file to the figures."""
    encoded, flags = pickle.loads(path.read_bytes())
    pixels = torch.from_numpy(np.stack([face_pixels(image) for image in encoded]))
    network = build_backbone("iresnet_small", image_size=SIZE, embedding_size=8)
    network.load_state_dict(workload.state_dict()["backbone"])
    network.eval().double()
    with torch.no_grad():
        images = ((pixels.double() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
        embeddings = normalize((network(images) + network(images.flip(3))).numpy())
    same, distances = np.array(flags), np.sum(np.square(embeddings[0::2] - embeddings[1::2]), axis=1)
    thresholds, accuracies = np.arange(0, 4, 0.01), []
    for train, test in KFold(10, shuffle=False).split(distances):
        scores = [np.mean(same[train] == (distances[train] < threshold)) for threshold in thresholds]
        accuracies.append(accuracy_score(same[test], distances[test] < thresholds[int(np.argmax(scores))]))
    fpr, tpr, _ = roc_curve(same, -distances, drop_intermediate=False)
    return float(np.mean(accuracies)), float(np.std(accuracies)), float(tpr[fpr <= far].max())


def test_a_run_reports_each_set_beside_the_held_out_people(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "lfw.bin"), write_set(tmp_path / "my set.bin", first=100, num_pairs=23)
    workload, alone = built(configured(one, two)), built(configured())
    for each in (workload, alone):
        each.training_step(0, 0.1)
    before = {name: value.clone() for name, value in workload.state_dict()["backbone"].items()}
    metrics = workload.evaluate()
    assert workload.evaluate() == metrics
    assert all(torch.equal(value, before[name]) for name, value in workload.state_dict()["backbone"].items())
    assert {name: metrics[name] for name in alone.evaluate()} == alone.evaluate()
    for path in (one, two):
        found = [metrics[f"{figure}_{path.stem}"] for figure in ("accuracy", "accuracy_std", "tar")]
        assert found == pytest.approx(reference(path, workload, far=0.2), abs=1e-12)
        assert 0.5 < found[0] < 1
    assert len(metrics) == 3 + 3 + 3


def test_sets_alone_let_everybody_be_trained_on(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "a.bin"), write_set(tmp_path / "b.bin", first=100)
    config = configured(one, two, data={"held_out": 0})
    assert prepare_faces(config.data)[0].num_identities == 8
    metrics = built(config).evaluate()
    assert set(metrics) == {
        "accuracy", "tar_at_far", "accuracy_a", "accuracy_std_a", "tar_a", "accuracy_b", "accuracy_std_b", "tar_b",
    }  # fmt: skip
    assert metrics["accuracy"] == fmean([metrics["accuracy_a"], metrics["accuracy_b"]])
    assert metrics["tar_at_far"] == fmean([metrics["tar_a"], metrics["tar_b"]])


def test_sets_count_by_name_and_content_wherever_they_lie(tmp_path: Path) -> None:
    def mark(path: Path) -> str:
        return json.dumps(built(configured(path)).fingerprint(), sort_keys=True)

    first = mark(write_set(tmp_path / "lfw.bin"))
    assert mark(write_set(tmp_path / "elsewhere" / "lfw.bin")) == first
    assert mark(write_set(tmp_path / "other.bin")) != first
    assert mark(write_set(tmp_path / "lfw.bin", first=7)) != first


def test_a_set_is_read_once_in_a_process_as_long_as_its_file_stays(tmp_path: Path) -> None:
    path = write_set(tmp_path / "lfw.bin")
    first = load_verification_set(path, image_size=SIZE)
    assert load_verification_set(path, image_size=SIZE) is first
    assert load_verification_set(path, image_size=48).images.shape[1:] == (48, 48, 3)
    other = load_verification_set(write_set(path, first=50), image_size=SIZE)
    assert other.digest != first.digest


def test_sets_that_do_not_belong_to_the_config_are_refused(tmp_path: Path) -> None:
    config = configured(write_set(tmp_path / "lfw.bin"))
    train, verification = prepare_faces(config.data)
    with pytest.raises(ValueError, match=r"must be .*lfw"):
        FaceWorkload(config, seed=0, train=train, verification=verification, device=CPU)


def test_trials_share_steps_and_evaluations_of_sets(tmp_path: Path) -> None:
    run = RunConfig(workload=configured(write_set(tmp_path / "lfw.bin"), data={"held_out": 0}), total_steps=4)
    store = StageStore(tmp_path / "store")
    lasts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        *_, last = run_trial(run, tmp_path / name, device=CPU, store=store, label=name)
        lasts.append(last)
    assert lasts[0].metrics == lasts[1].metrics
    assert "accuracy_lfw" in lasts[0].metrics
    assert (lasts[1].counts.executed, lasts[1].counts.shared) == (0, 4)


# A sweep

SPACE: dict[str, Any] = {
    "question": "Which setting verifies best on a set?",
    "objective": {"metric": "tar_lfw"},
    "steps": 6,
    "trials": 2,
    "schedulers": [{"name": "fastface", "parameters": {"decay_factor": {"choices": [2, 4]}}}],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in(monkeypatch)
    return tmp_path


def sweep(place: Path, workload: FaceConfig) -> Ledger:
    content = {**SPACE, "workload": workload.model_dump(mode="json", exclude_defaults=True)}
    (place / "space.yaml").write_text(json.dumps(content))
    asked = Asked(space="space.yaml", name="first", tracking_uri=f"sqlite:///{place}/mlflow.db")
    with (place / "said.txt").open("a") as said:
        return new_sweep(asked, console=Console(file=said), ending=Ending())


def test_a_sweep_is_judged_by_a_set_and_needs_the_same_one_to_go_on(place: Path, mlflow_store: Any) -> None:
    mlflow_store(place)
    workload = configured(write_set(place / "lfw.bin"), data={"held_out": 0})
    ledger = sweep(place, workload)
    for trial in ledger.trials():
        assert trial.state == "COMPLETE"
        assert trial.value == trial.metrics["tar_lfw"]
    write_set(place / "lfw.bin", first=300)
    with (place / "said.txt").open("a") as said, pytest.raises(UserError, match=r"verification sets .* have changed"):
        resume_sweep(SweepFolder(place / "sweeps/first"), Asked(trials=3), console=Console(file=said), ending=Ending())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", r"verification set `.*lfw\.bin` must be readable, but No such file"),
        ("damaged", r"lfw\.bin` must be a pickle of images"),
        ("weights", r"weights: .*absent\.pth cannot be read"),
        ("misfit", r"weights: .* must be those of the backbone, but .*of another shape"),
    ],
)
def test_what_a_trial_would_fail_at_is_told_before_anything_is_made(place: Path, fault: str, says: str) -> None:
    path, changes = place / "lfw.bin", dict[str, Any]()
    if fault != "missing":
        write_set(path)
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:-300])
    if fault in ("weights", "misfit"):
        changes = {"model": {"embedding_size": 8, "weights": str(place / "absent.pth")}}
    if fault == "misfit":
        other = build_backbone("iresnet_small", image_size=SIZE, embedding_size=16)
        torch.save(other.state_dict(), place / "absent.pth")
    before = {*place.rglob("*"), place / "space.yaml", place / "said.txt"}
    with pytest.raises(UserError, match=says) as raised:
        sweep(place, configured(path, **changes))
    assert "\n" not in str(raised.value)
    assert set(place.rglob("*")) == before
