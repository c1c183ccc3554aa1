"""A LightningModule as a workload: exact, as Lightning would train it, shared by trials; and what cannot be one."""

import io
import logging
import shutil
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="it needs `pip install '.[lightning]'`")

import torch
from lightning_modules import Module, Settings, own, with_data
from rich.console import Console
from torch.utils.data import BatchSampler, DataLoader, WeightedRandomSampler

from tuner.errors import UserError
from tuner.lightning import LightningWorkload
from tuner.lightning.batches import Batches
from tuner.lightning.workload import LightningTraining
from tuner.names import CURVE_FILE, EVALUATIONS_FILE
from tuner.stages.checkpoint import snapshot
from tuner.sweep import begin
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.testing import check_workload

CPU = torch.device("cpu")
LRS = [0.1, 0.1, 0.05, 0.05, 0.02, 0.1, 0.01, 0.01, 0.2, 0.1, 0.1, 0.05]
"""Of more than two epochs."""
pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning says about torch


def build(kind: str, seed: int = 3) -> LightningTraining:
    workload = with_data if kind == "datamodule" else own
    return workload(Settings(kind), seed=seed, device=CPU)  # type: ignore[arg-type]


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(snapshot(state), file)
    file.seek(0)
    read: dict[str, Any] = torch.load(file, weights_only=True)
    return read


@pytest.mark.parametrize(
    "kind", ["automatic", "manual", "two", "accumulated", "datamodule", "bf16", "workers", "groups"]
)
def test_a_restored_state_goes_on_bit_for_bit_within_and_between_epochs(kind: str) -> None:
    whole, losses, states = build(kind), [], {}
    for step, lr in enumerate(LRS):
        if step in ((3,) if kind == "workers" else (0, 1, 3, 5, 7)):
            states[step] = through_file(whole.state_dict())
        losses.append(float(whole.training_step(step, lr)))
    metrics = whole.evaluate()
    for step, state in states.items():
        torch.manual_seed(step)
        resumed = build(kind)
        resumed.load_state_dict(state)
        assert resumed.evaluate().keys() == {"accuracy"}
        assert [float(resumed.training_step(each, LRS[each])) for each in range(step, len(LRS))] == losses[step:]
        assert resumed.evaluate() == metrics
    same, other = build(kind), build(kind, seed=4)
    assert float(same.training_step(0, LRS[0])) == losses[0]
    assert float(other.training_step(0, LRS[0])) != losses[0]


@pytest.mark.parametrize("kind", ["automatic", "accumulated"])
def test_lightning_counts_steps_and_epochs_also_after_a_resume(kind: str) -> None:
    seen = []
    for begin_at in (0, 4):
        training = build(kind)
        for step in range(begin_at):
            training.training_step(step, 0.1)
        if begin_at:
            state = through_file(training.state_dict())
            training = build(kind)
            training.load_state_dict(state)
        for step in range(begin_at, 7):
            training.training_step(step, 0.1)
        assert training._fit is not None
        seen.append(training._fit._trainer.lightning_module.seen)
    assert seen[0][-len(seen[1]) :] == seen[1]
    if kind == "automatic":
        assert seen[0] == [(step // 5, step % 5, step) for step in range(7)]
    else:  # three steps an epoch, the last of one batch
        assert seen[0][:6] == [(0, 0, 0), (0, 1, 0), (0, 2, 1), (0, 3, 1), (0, 4, 2), (1, 0, 3)]


def test_it_trains_as_a_plain_loop_does_on_the_same_batches() -> None:
    training = build("groups")
    state = through_file(training.state_dict())["state_dict"]
    found = [float(training.training_step(step, lr)) for step, lr in enumerate(LRS)]
    module = Module(Settings("groups"))
    module.load_state_dict(state)
    groups = [{"params": module.body.parameters()}, {"params": module.head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    batches = Batches(module.train_dataloader(), seed=3, first=0, before=lambda: None)
    losses: list[float] = []
    for epoch in range(3):
        for inputs, labels in batches:
            lr, step = LRS[len(losses)], len(losses)
            loss = torch.nn.functional.cross_entropy(module.head(module.body(inputs)), labels)
            loss = loss + 0.01 * epoch + 0.001 * step
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr, lr * (0.02 / 0.1)
            optimizer.step()
            losses.append(float(loss))
            if len(losses) == len(LRS):
                assert losses == found
                return


def test_an_epoch_has_each_sample_once_in_an_order_of_its_own() -> None:
    loader = DataLoader(range(10), batch_size=4, shuffle=True)  # type: ignore[arg-type]
    batches = Batches(loader, seed=0, first=0, before=lambda: None)
    first, second = ([[int(each) for each in batch] for batch in batches] for _ in range(2))
    assert sorted(chain(*first)) == sorted(chain(*second)) == [*range(10)]
    assert first != second
    later = Batches(loader, seed=0, first=4, before=lambda: None)
    assert [[int(each) for each in batch] for batch in later] == second[1:]
    assert len(batches) == 3


def test_samplers_of_other_kinds_are_drawn_by_the_seed_too() -> None:
    weighted = WeightedRandomSampler([1.0] * 10, 8, generator=torch.Generator().manual_seed(5))
    of_batches = BatchSampler(weighted, 4, drop_last=True)
    for options in ({"sampler": weighted, "batch_size": 4}, {"batch_sampler": of_batches}, {"batch_size": None}):
        drawn = [
            [batch.tolist() for _, batch in zip(range(7), _for_ever(loader, seed), strict=False)]
            for seed in (0, 0, 1)
            for loader in [DataLoader(torch.arange(10), **options)]  # type: ignore[arg-type]
        ]
        assert drawn[0] == drawn[1]
        assert (drawn[0] == drawn[2]) == ("batch_size" in options and options["batch_size"] is None)


def _for_ever(loader: DataLoader[Any], seed: int) -> Iterator[Any]:
    batches = Batches(loader, seed=seed, first=0, before=lambda: None)
    while True:
        yield from batches


def test_the_trainer_ends_with_the_workload() -> None:
    def fits() -> int:
        return sum(thread.name == "lightning" for thread in threading.enumerate())

    before = fits()
    training = build("automatic")
    training.training_step(0, 0.1)
    assert fits() == before + 1
    training.load_state_dict(training.state_dict())
    assert fits() == before
    training.training_step(1, 0.1)
    assert fits() == before + 1
    del training
    assert fits() == before


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("option", "options of the Trainer in a sweep must be among accumulate_grad_batches, .* but got max_epochs"),
        ("varies", "`accumulate_grad_batches` must stay the same.* but it went from 1 to 2"),
        ("nothing", "`training_step` must return the loss"),
        ("skips", "the rest of an epoch was skipped by a hook"),
        ("stops", "the Trainer must go on for as long as the sweep does, but was stopped"),
        ("stream", "the train loader must be a DataLoader of a data set with an index .* but is of a Stream"),
    ],
)
def test_what_cannot_be_trained_step_by_step_is_told(kind: str, says: str) -> None:
    training, done = build(kind), 0
    for _ in range(2):  # and is told again
        with pytest.raises(UserError, match=says):
            while done < 7:
                training.training_step(done, 0.1)
                done += 1


def test_the_name_of_a_module_is_told_to_be_none_of_a_workload() -> None:
    with pytest.raises(UserError, match=r"a LightningModule is trained by a tuner\.lightning\.LightningWorkload"):
        check_workload(Module)
    with pytest.raises(UserError, match="or as a class, but got a LightningWorkload; give its name"):
        check_workload(own)  # type: ignore[arg-type]


def test_data_of_another_kind_is_told() -> None:
    listed = LightningWorkload(module=Module, loaders=lambda _: [], metrics={}, base_lr=1)  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match=r"`loaders` must return a LightningDataModule or .* but returned a list"):
        listed(Settings(), seed=0, device=CPU).training_step(0, 0.1)


def test_a_sweep_drives_the_example_and_shares_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Any
) -> None:
    from plain_executor import stand_in

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    stand_in(monkeypatch)
    mlflow_store(tmp_path)
    examples = Path(__file__).parents[1] / "examples"
    for name in ("clusters.py", "lightning_sweep.py", "lightning_sweep.yaml"):
        shutil.copy(examples / name, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert check_workload("lightning_sweep:sweep", device="cpu") == []
    monkeypatch.setattr(begin, "unfit", lambda _: None)  # once is enough
    sweeps = {}
    for name, share in (("shared", True), ("alone", False)):
        asked = Asked(space="lightning_sweep.yaml", name=name, steps=48, trials=4, share=share)
        sweeps[name] = new_sweep(asked, console=Console(file=io.StringIO()), ending=Ending()).trials()
    assert sum(trial.steps_shared for trial in sweeps["shared"] if trial.duplicate_of is None) > 0
    for one, other in zip(sweeps["shared"], sweeps["alone"], strict=True):
        assert (one.state, one.value, one.metrics, one.params) == ("COMPLETE", other.value, other.metrics, other.params)
        if one.duplicate_of is None:
            for file in (CURVE_FILE, EVALUATIONS_FILE):
                first, second = (SweepFolder(Path("sweeps") / name).trial(one.number) / file for name in sweeps)
                assert first.read_bytes() == second.read_bytes()
