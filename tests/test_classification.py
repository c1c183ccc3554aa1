"""Image classification: fit for sharing, with any policy and any set at hand, swept by the commands of the faces."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain_executor import stand_in
from rich.console import Console

from tuner.config.own import OwnConfig
from tuner.config.own_code import looked_up
from tuner.config.space_file import load_space, with_workload
from tuner.data.pictures import load_pictures, split_pictures
from tuner.errors import UserError
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.testing import check_workload
from tuner.training.opened import open_workload

CPU = torch.device("cpu")
SMALL = {"model": "squeezenet1_1", "batch_size": 4, "evaluation_batch": 450}


def opened(**settings: Any) -> Any:
    return open_workload(looked_up(OwnConfig(name="classification", settings=SMALL | settings)))


def folder_of(place: Path, *, classes: int = 3, each: int = 4) -> Path:
    noise = np.random.default_rng(0)
    for label in range(classes):
        (place / f"class{label}").mkdir(parents=True)
        for number in range(each):
            pixels = noise.integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"class{label}" / f"{number}.png")
    return place


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "trivial", "flip": 0.5},
        {"policy": "rand", "model": "resnet18", "image_size": 16, "precision": "bf16"},
    ],
)
def test_it_is_fit_for_sharing(settings: dict[str, Any]) -> None:
    assert check_workload("classification", SMALL | settings, device="cpu") == []


def test_it_learns_and_is_judged_by_pictures_held_out() -> None:
    workload = opened(model="resnet18", image_size=16, batch_size=32).build(seed=0, device=CPU)
    before = workload.evaluate()
    for step in range(80):
        workload.training_step(step, 0.01)
    after = workload.evaluate()
    assert after["top5"] >= after["accuracy"] > before["accuracy"] + 0.2
    assert {*after} == {"accuracy", "top5"}


def test_each_class_is_split_by_the_seed() -> None:
    pictures = load_pictures("digits", image_size=32)
    train, validation = split_pictures(pictures, held_out=0.25, seed=0)
    assert len(train.labels) + len(validation.labels) == 1797
    shares = np.bincount(validation.labels) / np.bincount(pictures.labels)
    assert np.all(abs(shares - 0.25) < 0.01)
    again, other = (split_pictures(pictures, held_out=0.25, seed=seed)[0].digest for seed in (0, 1))
    assert train.digest == again != other


def test_pictures_come_from_a_folder_or_as_torchvision_keeps_them(tmp_path: Path) -> None:
    data = opened(data=str(folder_of(tmp_path / "mine"))).data
    assert (data.counts["classes"], data.counts["training_images"], data.counts["validation_images"]) == (3, 9, 3)

    place = tmp_path / "cifar" / "cifar-10-batches-py"
    place.mkdir(parents=True)
    with pytest.raises(UserError, match=r"must hold CIFAR10 as torchvision keeps it, but it is damaged"):
        load_pictures(str(tmp_path / "cifar"), image_size=32)
    with pytest.raises(UserError, match=r"pictures must be `digits` or in a folder .* but `.*absent` is no folder"):
        load_pictures(str(tmp_path / "absent"), image_size=32)
    with pytest.raises(UserError, match="at least 2 classes are needed, but"):
        load_pictures(str(folder_of(tmp_path / "one", classes=1)), image_size=32)


def test_a_set_of_torchvision_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    noise, batches = np.random.default_rng(0), [name for name, _ in CIFAR10.train_list]
    for name in batches:
        content = {"data": noise.integers(0, 255, (8, 3072), np.uint8), "labels": [0, 1, 2, 3] * 2}
        (place / name).write_bytes(pickle.dumps(content))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcd")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # these are not the real ones
    pictures = load_pictures(str(tmp_path), image_size=48)
    assert pictures.images.shape == (40, 48, 48, 3)
    assert pictures.names == ("a", "b", "c", "d")


def test_settings_count_and_where_the_pictures_lie_does_not(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path / "one"), folder_of(tmp_path / "two")
    mark = lambda **settings: opened(**settings).fingerprint(seed=0, device=CPU)  # noqa: E731
    first = mark(data=str(one))
    assert mark(data=str(two)) == first
    assert mark(data=str(one), weight_decay=0.1) != first
    assert mark(data=str(one), held_out=0.5) != first


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "resnet17"}, "did you mean `resnet18`"),
        ({"model": "googlenet"}, "has a second output"),
        ({"polcy": "rand"}, "unknown setting `polcy`; did you mean `policy`?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match="classification") as raised:
        looked_up(OwnConfig(name="classification", settings=settings))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_its_space_is_swept_like_that_of_the_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str]
) -> None:
    stand_in(monkeypatch)
    mlflow_store(tmp_path)
    space = load_space("classification")
    assert space.workload == with_workload(space, space.workload).workload
    data = folder_of(tmp_path / "mine", classes=6)
    monkeypatch.setattr("tuner.sweep.begin.load_space", lambda _: with_workload(space, small(space.workload)))
    asked = Asked(space="classification", data=str(data), steps=8, trials=3, name="first", cost_aware=False)
    ledger = new_sweep(asked, console=Console(file=io.StringIO()), ending=Ending())
    trials = ledger.trials()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 3
    assert {*trials[0].metrics} == {"accuracy", "top5", "final_loss"}
    assert SweepFolder(Path("sweeps/first")).read().unfit is None
    assert sum(trial.steps_shared for trial in trials) > 0


def small(workload: Any) -> OwnConfig:
    return OwnConfig(name=workload.name, settings=workload.settings | SMALL | {"batch_size": 4})
