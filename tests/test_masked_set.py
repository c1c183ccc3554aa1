"""Masked against bare faces: the set, its metrics, and that nothing changes where it is off."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tuner.config.run import FaceConfig, RunConfig
from tuner.config.space_model import SpaceFile
from tuner.data.masked_set import masked_set
from tuner.data.verification_sets import drawn_set
from tuner.search.plan import run_key
from tuner.training.opened import open_workload

CPU = torch.device("cpu")
WORKLOAD: dict[str, Any] = {
    "data": {"image_size": 48, "identities": 10, "images_per_identity": 6},
    "model": {"embedding_size": 8},
    "optimizer": {"batch_size": 4},
}


def configured(**evaluation: Any) -> FaceConfig:
    return FaceConfig.model_validate({**WORKLOAD, "evaluation": {"pairs": 40, "far": 0.1, **evaluation}})


def test_the_first_face_of_each_pair_wears_a_mask_and_the_second_is_bare() -> None:
    opened: Any = open_workload(configured())
    faces = drawn_set(opened._verification, num_pairs=40, seed=0)
    masked, again, other = (masked_set(faces, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(masked.pairs.same, faces.pairs.same)
    bare = np.asarray(faces.images)
    assert np.array_equal(masked.images[masked.pairs.right], bare[faces.pairs.right])
    left, before = masked.images[masked.pairs.left], bare[faces.pairs.left]
    assert np.array_equal(left[:, :24], before[:, :24])  # the eyes
    mouth = (slice(None), slice(37, 43), slice(17, 31))
    assert np.all(np.any(left[mouth] != before[mouth], axis=(1, 2, 3)))
    assert np.array_equal(masked.images, again.images)
    assert not np.array_equal(masked.images, other.images)


def test_its_metrics_come_beside_the_others_and_may_judge_trials() -> None:
    metrics = {}
    for masked in (False, True):
        workload = open_workload(configured(masked=masked)).build(seed=0, device=CPU)
        workload.training_step(0, 0.1)
        metrics[masked] = dict(workload.evaluate())
    assert {*metrics[True]} - {*metrics[False]} == {"accuracy_masked", "accuracy_std_masked", "tar_masked"}
    assert {name: metrics[True][name] for name in metrics[False]} == metrics[False]

    space = {"question": "q", "objective": {"metric": "tar_masked"}, "schedulers": [{"name": "fastface"}]}
    assert SpaceFile.model_validate({**space, "workload": configured(masked=True).model_dump()}).objective.maximize
    with pytest.raises(ValidationError, match="must be a metric of the workload"):
        SpaceFile.model_validate({**space, "workload": configured().model_dump()})


def test_records_of_runs_without_it_are_as_they_were() -> None:
    off, on = configured(), configured(masked=True)
    assert "masked" not in off.model_dump(mode="json")["evaluation"]
    assert run_key(RunConfig(workload=off)) != run_key(RunConfig(workload=on))
    assert RunConfig.model_validate(RunConfig(workload=on).to_dict()).workload == on
    marks = [open_workload(config).fingerprint(seed=0, device=CPU) for config in (off, on)]
    assert json.dumps(marks[0]) != json.dumps(marks[1])


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValidationError, match="with `masked` no set may be called masked"):
        configured(masked=True, sets=["masked.bin"])
    with pytest.raises(ValidationError, match=r"`data.held_out > 0` must hold with `evaluation.masked`"):
        FaceConfig.model_validate({"data": {"held_out": 0}, "evaluation": {"masked": True, "sets": ["lfw.bin"]}})
