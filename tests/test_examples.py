"""The examples of `FastFaceLR` in other people's loops run as they stand, and all give the same schedule."""

import logging
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.optim import SGD
from torch.utils.data import DataLoader

EXAMPLES = Path(__file__).parents[1] / "examples"
# What the frameworks say about machines without a GPU, and about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


class Example(SimpleNamespace):
    """The names of an example that has run, and what it printed last."""

    printed: str


def run(name: str, folder: Path) -> Example:
    """Run `examples/NAME.py` as a script in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(EXAMPLES)
        shown: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: shown.append(" ".join(map(str, words))))
        names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return Example(**{key: value for key, value in names.items() if not key.startswith("__")}, printed=shown[-1])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return run("plain_loop", tmp_path_factory.mktemp("plain"))


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"the example needs `pip install '.[{package}]'`")


@pytest.fixture(scope="module", params=["automatic", "manual"])
def lightning(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    needs("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return run(f"lightning_{request.param}", tmp_path_factory.mktemp("lightning"))


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Example:
    needs("transformers")
    return run("transformers_trainer", tmp_path_factory.mktemp("transformers"))


def test_the_plain_loop_lowers_the_lr(plain: Example) -> None:
    assert re.fullmatch(r"160 steps; the LR fell from 0\.2 to 0\.0\d+", plain.printed)


def test_lightning_gives_the_schedule_of_the_plain_loop(plain: Example, lightning: Example) -> None:
    assert lightning.printed == plain.printed
    assert lightning.scheduler.state_dict() == plain.scheduler.state_dict()


def test_lightning_resumes_the_schedule_from_a_checkpoint(lightning: Example, plain: Example, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fit(**options: Any) -> Any:
        classifier = lightning.Classifier()
        keeping = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer = quiet_trainer(lightning, callbacks=[keeping])
        trainer.fit(classifier, DataLoader(lightning.clusters(), batch_size=64), **options)
        return classifier.scheduler

    assert fit().state_dict() == plain.scheduler.state_dict()
    assert fit(ckpt_path=tmp_path / "epoch=2.ckpt").state_dict() == plain.scheduler.state_dict()


def quiet_trainer(lightning: Example, **options: Any) -> Any:
    return lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def transformers_trainer(example: Example, folder: Path, **arguments: Any) -> Any:
    """Return a Trainer that sees the data as the plain loop does: in order, gradients as they are."""
    model = example.Classifier()
    return example.FastFaceTrainer(
        model=model,
        args=example.TrainingArguments(
            str(folder),
            num_train_epochs=5,
            train_sampling_strategy="sequential",
            max_grad_norm=0,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=[{"points": points, "labels": labels} for points, labels in example.clusters()],
        optimizers=(SGD(model.parameters(), lr=0.2, momentum=0.9), None),
    )


def test_the_transformers_trainer_lowers_the_lr(transformers: Example) -> None:
    assert re.fullmatch(r"160 steps; the LR fell from 0\.2 to 0\.\d+", transformers.printed)


def test_the_transformers_trainer_gives_the_schedule_of_the_plain_loop_and_resumes_it(
    transformers: Example, plain: Example, tmp_path: Path
) -> None:
    options = {"per_device_train_batch_size": 64, "save_strategy": "epoch"}
    whole = transformers_trainer(transformers, tmp_path, **options)
    whole.train()
    resumed = transformers_trainer(transformers, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-96"))
    assert whole.lr_scheduler.state_dict() == plain.scheduler.state_dict()
    assert resumed.lr_scheduler.state_dict() == plain.scheduler.state_dict()


def test_gradient_accumulation_counts_the_mean_loss_of_a_step_s_parts(
    transformers: Example, plain: Example, tmp_path: Path
) -> None:
    halves = transformers_trainer(
        transformers, tmp_path, per_device_train_batch_size=32, gradient_accumulation_steps=2, save_strategy="no"
    )
    halves.train()
    assert_nearly_the_same(halves.lr_scheduler, plain.scheduler)


def test_gradient_accumulation_in_lightning_does_too(plain: Example, tmp_path: Path) -> None:
    needs("lightning")
    example = run("lightning_automatic", tmp_path)
    classifier = example.Classifier()
    trainer = quiet_trainer(example, accumulate_grad_batches=2, enable_checkpointing=False)
    trainer.fit(classifier, DataLoader(example.clusters(), batch_size=32))
    assert_nearly_the_same(classifier.scheduler, plain.scheduler)


def assert_nearly_the_same(found: Any, expected: Any) -> None:
    """Assert that two schedulers have seen the same losses, but for what half batches add up to in float32."""
    assert found.last_epoch == expected.last_epoch
    assert found.get_last_lr() == expected.get_last_lr()
    assert found.response == pytest.approx(expected.response, rel=1e-3)


def test_the_page_on_other_loops_shows_the_examples_as_they_are() -> None:
    page = (EXAMPLES.parent / "docs" / "other_loops.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"`examples/(\w+\.\w+)`:\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    files = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.iterdir() if path.is_file()}
    del files["clusters.py"]
    assert shown == files
