"""The face workload: a function of seed and LRs alone, resumable bit for bit, and left alone by its evaluation."""

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tuner.config.run import FaceConfig
from tuner.data.faces import FaceSet
from tuner.schedulers.registry import resolve
from tuner.training.embedding import embedder
from tuner.training.face import FaceWorkload
from tuner.training.faces import prepare_faces
from tuner.training.loop import StepReport, TrainingRun, train
from tuner.training.verify import flip_sum
from tuner.workload import Workload

CPU = torch.device("cpu")
STEPS = 6
CONFIG = FaceConfig.model_validate(
    {
        "data": {"image_size": 32},
        "model": {"embedding_size": 8},
        "optimizer": {"batch_size": 4},
        "evaluation": {"pairs": 20, "far": 0.1},
    }
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Keep threads from waiting for each other: these networks are tiny, and test machines are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blotches(num_identities: int, *, seed: int, images: int = 5) -> FaceSet:
    """Return identities that differ by their colours, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_identities, dtype=np.int64), images)
    means = rng.integers(40, 216, size=(num_identities, 1, 1, 3))[labels]
    pixels = np.clip(means + rng.normal(0, 30, size=(len(labels), 32, 32, 3)), 0, 255).astype(np.uint8)
    names = tuple(f"person {k}" for k in range(num_identities))
    return FaceSet(pixels, labels, names, hashlib.sha256(pixels.tobytes()).hexdigest(), "blotches")


WHOLE_BATCHES = CONFIG.model_copy(update={"optimizer": CONFIG.optimizer.model_copy(update={"batch_size": 20})})
"""All training images in each batch, so that the loss falls steadily."""
TRAIN, VERIFICATION = blotches(4, seed=0), blotches(3, seed=1)


def fresh(*, seed: int = 0, config: FaceConfig = CONFIG) -> FaceWorkload:
    return FaceWorkload(config, seed=seed, train=TRAIN, verification=VERIFICATION, device=CPU)


def run_of(name: str, *, delay: int, workload: Workload) -> TrainingRun:
    schedule = resolve(name, {"patience": 1, "threshold": 9.0} if name == "fastface" else {}, total_steps=STEPS)
    return TrainingRun(workload=workload, schedule=schedule, base_lr=0.1, total_steps=STEPS, loss_delay=delay)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested state by path, tensors as bytes."""
    if isinstance(tree, Tensor):
        return {prefix: tree.numpy().tobytes()}
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {path: leaf for key, value in items for path, leaf in flat(value, f"{prefix}/{key}").items()}
    return {prefix: tree}


def test_is_a_workload_whose_loss_falls() -> None:
    workload: Workload = fresh(config=WHOLE_BATCHES)
    losses = [float(workload.training_step(step, 0.02)) for step in range(20)]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def test_equal_seeds_give_equal_losses_whatever_the_process_drew() -> None:
    torch.manual_seed(1)
    one = [r.loss for r in train(run_of("cosine", delay=1, workload=fresh()))]
    torch.manual_seed(2)
    two = [r.loss for r in train(run_of("cosine", delay=1, workload=fresh()))]
    other = [r.loss for r in train(run_of("cosine", delay=1, workload=fresh(seed=1)))]
    assert one == two
    assert one != other


def test_two_threads_are_as_reproducible_as_one() -> None:
    torch.set_num_threads(2)
    try:
        one, two = fresh(), fresh()
        for step in range(3):
            assert torch.equal(one.training_step(step, 0.1), two.training_step(step, 0.1))
        assert flat(one.state_dict()) == flat(two.state_dict())
    finally:
        torch.set_num_threads(1)


def test_draws_no_random_numbers_from_the_process() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    workload = fresh()
    workload.training_step(0, 0.1)
    workload.evaluate()
    assert torch.equal(torch.rand(3), expected)


@given(
    name=st.sampled_from(["fastface", "cosine", "constant"]),
    delay=st.integers(0, 1),
    cuts=st.lists(st.integers(1, STEPS), min_size=1, max_size=2, unique=True).map(sorted),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_saved_to_bytes_and_continued_it_is_the_same_run(name: str, delay: int, cuts: list[int]) -> None:
    whole = run_of(name, delay=delay, workload=fresh())
    expected = list(train(whole))
    run, reports = run_of(name, delay=delay, workload=fresh()), list[StepReport]()
    for cut in [*cuts, STEPS]:
        for report in train(run):
            reports.append(report)
            if report.step + 1 == cut:
                break
        state, file = run.state_dict(), io.BytesIO()
        torch.save(state["workload"], file)
        file.seek(0)
        run = run_of(name, delay=delay, workload=fresh())
        loop = json.loads(json.dumps(state["loop"]))
        run.load_state_dict({"loop": loop, "workload": torch.load(file, weights_only=True)})
    assert reports == expected
    assert flat(run.workload.state_dict()) == flat(whole.workload.state_dict())
    assert run.workload.evaluate() == whole.workload.evaluate()


def test_a_saved_state_stays_as_it_was_while_training_goes_on() -> None:
    workload = fresh()
    workload.training_step(0, 0.1)
    saved = workload.state_dict()
    before = flat(saved)
    other = fresh()
    other.load_state_dict(saved)
    for step in range(1, 3):
        assert torch.equal(workload.training_step(step, 0.1), other.training_step(step, 0.1))
    assert flat(saved) == before


def test_evaluation_leaves_the_run_alone() -> None:
    plain = [r.loss for r in train(run_of("cosine", delay=0, workload=fresh()))]
    workload, losses = fresh(), []
    for report in train(run_of("cosine", delay=0, workload=workload)):
        losses.append(report.loss)
        before = flat(workload.state_dict())
        metrics = workload.evaluate()
        assert flat(workload.state_dict()) == before
        assert workload.evaluate() == metrics
    assert losses == plain


def test_metrics_of_the_evaluation() -> None:
    workload = fresh(config=WHOLE_BATCHES)
    for step in range(20):
        workload.training_step(step, 0.02)
    metrics = workload.evaluate()
    assert set(metrics) == {"accuracy", "accuracy_std", "tar_at_far"}
    assert 0.8 < metrics["accuracy"] <= 1.0
    assert 0.0 <= metrics["tar_at_far"] <= 1.0


def test_batches_of_the_evaluation_do_not_show() -> None:
    """A face's embedding is its own: the same to rounding whichever faces it is computed with."""
    embed = embedder(fresh()._backbone, CPU)
    whole, parts = (flip_sum(VERIFICATION.images, embed, batch_size=size) for size in (128, 4))
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_update() -> None:
    """With momentum and weight decay off, one step at LR 1 moves the weights by at most the clipping norm."""
    settings = {"clip_norm": 0.01, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 4}
    workload = fresh(config=CONFIG.model_copy(update={"optimizer": CONFIG.optimizer.model_copy(update=settings)}))
    before = [parameter.detach().clone() for parameter in workload._parameters]
    workload.training_step(0, 1.0)
    moved = sum(float((p.detach() - b).square().sum()) for p, b in zip(workload._parameters, before, strict=True))
    assert moved**0.5 == pytest.approx(0.01, rel=1e-3)


def test_fingerprint_is_json_and_tells_runs_apart() -> None:
    mark = json.dumps(fresh().fingerprint(), sort_keys=True)
    head = CONFIG.head.model_copy(update={"m2": 0.3})
    assert mark == json.dumps(fresh().fingerprint(), sort_keys=True)
    assert mark != json.dumps(fresh(seed=1).fingerprint(), sort_keys=True)
    assert mark != json.dumps(fresh(config=CONFIG.model_copy(update={"head": head})).fingerprint(), sort_keys=True)
    moved = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"source": "elsewhere"})})
    assert mark == json.dumps(fresh(config=moved).fingerprint(), sort_keys=True)


def test_faces_are_prepared_by_identity(tmp_path: Any) -> None:
    data = CONFIG.data.model_copy(update={"identities": 6, "images_per_identity": 5, "held_out": 0.5})
    seen, unseen = prepare_faces(data, cache=tmp_path)
    assert seen.num_identities == unseen.num_identities == 3
    assert not set(seen.names) & set(unseen.names)


VARIANTS: dict[str, dict[str, Any]] = {
    "partial": {"head": {"sample_rate": 0.5}},
    "chunks": {"head": {"chunk": 2, "filter_threshold": 0.4}},
    "mobilefacenet": {"model": {"backbone": "mobilefacenet", "embedding_size": 8}},
    "dropout": {"model": {"backbone": "torchvision/mobilenet_v3_small", "embedding_size": 8}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_heads_and_backbones_are_resumable_bit_for_bit_whatever_the_process_drew(name: str) -> None:
    config = FaceConfig.model_validate({**CONFIG.model_dump(), **VARIANTS[name]})
    # 2 labels of 4 classes leave Partial FC something to choose.
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"batch_size": 2})})
    whole, first = fresh(config=config), fresh(config=config)
    expected = [float(whole.training_step(step, 0.1)) for step in range(4)]
    losses = [float(first.training_step(step, 0.1)) for step in range(2)]
    torch.manual_seed(99)
    second = fresh(config=config)
    second.load_state_dict(first.state_dict())
    torch.rand(7)
    before = torch.get_rng_state()
    losses += [float(second.training_step(step, 0.1)) for step in range(2, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert losses == expected
    assert flat(second.state_dict()) == flat(whole.state_dict())
    assert np.isfinite(expected).all()


def test_training_starts_from_the_weights_of_a_file(tmp_path: Any) -> None:
    trained = fresh()
    trained.training_step(0, 0.1)
    torch.save(trained.state_dict()["backbone"], tmp_path / "backbone.pth")
    model = CONFIG.model.model_copy(update={"weights": str(tmp_path / "backbone.pth")})
    tuned = fresh(seed=5, config=CONFIG.model_copy(update={"model": model}))
    assert flat(tuned.state_dict()["backbone"]) == flat(trained.state_dict()["backbone"])
    embeddings = [embedder(each._backbone, CPU)(VERIFICATION.images) for each in (tuned, trained)]
    assert np.array_equal(*embeddings)
