"""How a step is computed: in lower precision, in parts, compiled; always resumable, never waiting for the device."""

import io
import json
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_training_face import CPU, VERIFICATION, WHOLE_BATCHES, _one_thread, blotches, flat, fresh  # noqa: F401
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tuner.config.run import FaceConfig
from tuner.errors import UserError
from tuner.training import compiled
from tuner.training.face import FaceWorkload
from tuner.training.precision import check_precision, convolutions

CUDA = torch.device("cuda")
MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "parts": {"accumulate": 5},
    "fp16 in parts": {"precision": "fp16", "accumulate": 2},
    "compiled": {"compile": True},
    "compiled bf16": {"compile": True, "precision": "bf16"},
}


@pytest.fixture(autouse=True)
def _quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace networks as torch.compile does, but run what was traced as it is: no C++ compiler takes its time."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def config_of(compute: dict[str, Any], **changes: Any) -> FaceConfig:
    """Return settings with whole batches of 20 images."""
    return FaceConfig.model_validate({**WHOLE_BATCHES.model_dump(), "compute": compute, **changes})


def losses_of(workload: FaceWorkload, steps: range, *, lr: float = 0.02) -> list[float]:
    return [float(workload.training_step(step, lr)) for step in steps]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_learns_and_is_resumable_bit_for_bit(mode: str) -> None:
    config = config_of(MODES[mode])
    whole, first = fresh(config=config), fresh(config=config)
    expected = losses_of(whole, range(8))
    losses, file = losses_of(first, range(4)), io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = fresh(config=config)
    second.load_state_dict(torch.load(file, weights_only=True))
    losses += losses_of(second, range(4, 8))
    assert losses == expected
    assert flat(second.state_dict()) == flat(whole.state_dict())
    assert losses[-1] < 0.3 * losses[0]


CALM_LR = 0.002
"""The loss falls to a quarter in four steps; at 0.02 it falls to a 25th, and what was rounded grows with each step."""


@pytest.mark.parametrize(("mode", "tolerance"), [("bf16", 0.02), ("compiled", 1e-3), ("compiled bf16", 0.02)])
def test_the_losses_are_nearly_those_of_float32(mode: str, tolerance: float) -> None:
    plain = losses_of(fresh(config=config_of({})), range(4), lr=CALM_LR)
    lower = losses_of(fresh(config=config_of(MODES[mode])), range(4), lr=CALM_LR)
    assert lower == pytest.approx(plain, rel=tolerance)


def test_the_losses_of_fp16_are_nearly_those_of_float32_where_no_gradient_overflows() -> None:
    plain, scaled = fresh(config=config_of({})), fresh(config=config_of({"precision": "fp16"}))
    state = scaled.state_dict()
    state["scaler"]["scale"] = 2.0**10
    scaled.load_state_dict(state)
    expected = losses_of(plain, range(4), lr=CALM_LR)
    assert losses_of(scaled, range(4), lr=CALM_LR) == pytest.approx(expected, rel=0.01)
    assert scaled.state_dict()["scaler"]["_growth_tracker"] == 4


class NoWaiting(TorchDispatchMode):
    """Fails on whatever would make the host wait for a GPU: reading a value, or a shape that depends on one."""

    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"), name
        self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [mode for mode in MODES if "compiled" not in mode])
@pytest.mark.parametrize("head", [{}, {"sample_rate": 0.5}, {"chunk": 2, "filter_threshold": 0.4}])
def test_no_step_reads_a_value_from_the_device(mode: str, head: dict[str, Any]) -> None:
    workload = fresh(config=config_of(MODES[mode], head=head))
    for step in range(2):  # the first one makes what later ones use
        with NoWaiting() as watch:
            loss = workload.training_step(step, 0.02)
        assert watch.seen["_fused_sgd_"] == 1
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        float(loss)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_only_the_backbone_is_computed_in_lower_precision(precision: str) -> None:
    workload = fresh(config=config_of({"precision": precision}))
    seen: dict[str, torch.dtype] = {}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name], seen[f"{name} in"] = output.dtype, inputs[0].dtype
        seen[f"{name} product"] = (inputs[0].flatten(1)[:, :4] @ torch.ones(4, 4)).dtype

    workload._backbone.get_submodule("layer1").register_forward_hook(partial(watch, "backbone"))
    workload._head.register_forward_hook(partial(watch, "head"))
    losses_of(workload, range(2))
    lower = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert (seen["backbone"], seen["backbone product"]) == (lower, lower)
    assert (seen["head in"], seen["head"], seen["head product"]) == (torch.float32,) * 3
    state = workload.state_dict()
    kept = [*state["backbone"].values(), *state["head"].values()]
    kept += [each["momentum_buffer"] for each in state["optimizer"]["state"].values()]
    assert {value.dtype for value in kept} == {torch.float32, torch.int64}


def test_a_step_whose_gradients_overflow_is_left_out_be_it_the_first() -> None:
    workload = fresh(config=config_of({"precision": "fp16"}))
    state = workload.state_dict()
    state["scaler"]["scale"] = 2.0**120
    workload.load_state_dict(state)
    workload.training_step(0, 0.02)
    after = workload.state_dict()
    weights = [name for name, value in workload._backbone.named_parameters() if value.requires_grad]
    assert all(torch.equal(after["backbone"][name], state["backbone"][name]) for name in weights)
    assert torch.equal(after["head"]["weight"], state["head"]["weight"])
    assert {float(each["momentum_buffer"].abs().max()) for each in after["optimizer"]["state"].values()} == {0.0}
    assert after["scaler"]["scale"] == 2.0**119
    after["scaler"]["scale"] = 2.0**10
    workload.load_state_dict(after)
    assert losses_of(workload, range(1, 8))[-1] < 2.0


class Plain(nn.Sequential):
    """A backbone without BN, in which each face counts by itself."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))


@pytest.mark.parametrize("head", [{}, {"sample_rate": 0.5}])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_whole_batch_to_the_optimizer(
    parts: int, head: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.training.face.build_backbone", lambda *_, **__: Plain())
    optimizer, faces = {"batch_size": 8, "clip_norm": 0.5}, blotches(24, seed=2, images=2)

    def trained(compute: dict[str, Any]) -> FaceWorkload:
        config = config_of(compute, optimizer=optimizer, head=head)
        return FaceWorkload(config, seed=0, train=faces, verification=VERIFICATION, device=CPU)

    whole, in_parts = trained({}), trained({"accumulate": parts})
    assert losses_of(in_parts, range(3)) == pytest.approx(losses_of(whole, range(3)), rel=1e-6)
    for ours, theirs in zip(in_parts._parameters, whole._parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "parts"), [(20, 3), (20, 20), (4, 8)])
def test_parts_must_be_equal_and_hold_two_faces(batch_size: int, parts: int) -> None:
    with pytest.raises(ValidationError, match=f"`compute.accumulate` must divide .* got {parts} and {batch_size}"):
        config_of({"accumulate": parts}, optimizer={"batch_size": batch_size})


@pytest.mark.parametrize("compute", [{"precision": "fp8"}, {"accumulate": 0}, {"amp": True}])
def test_unknown_ways_to_compute_are_refused(compute: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config_of(compute)


def test_runs_that_are_computed_differently_have_other_fingerprints() -> None:
    marks = {json.dumps(fresh(config=config_of(compute)).fingerprint()) for compute in MODES.values()}
    assert len(marks) == len(MODES)


def test_the_second_workload_of_a_process_is_compiled_already() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    config = config_of({"compile": True})
    eager = losses_of(fresh(config=config_of({}), seed=3), range(2))
    losses_of(fresh(config=config), range(2))
    assert counters["stats"]["unique_graphs"] == 1
    again = fresh(config=config, seed=3)
    assert losses_of(again, range(2)) == pytest.approx(eager, rel=1e-4)
    again.evaluate()
    again.training_step(2, 0.02)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert again.state_dict()["backbone"].keys() == fresh().state_dict()["backbone"].keys()


def test_a_missing_compiler_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from torch._inductor import config

    monkeypatch.undo()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "no compiler")))
    network = compiled.compiled(nn.Sequential(nn.Linear(3, 3), nn.PReLU()))
    with (
        pytest.raises(UserError, match=r"`compile` takes a working C\+\+ compiler") as caught,
        compiled.compiler_at_hand(),
    ):
        network(torch.ones(2, 3))
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_step_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes"), compiled.compiler_at_hand():
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_the_step_alone(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    with convolutions(tf32=tf32, device=CUDA):
        assert torch.backends.cudnn.allow_tf32 == tf32
    assert torch.backends.cudnn.allow_tf32 != tf32
    with convolutions(tf32=tf32, device=CPU):
        assert torch.backends.cudnn.allow_tf32 != tf32


def test_a_gpu_without_bf16_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old one")
    with pytest.raises(UserError, match="an old one has not; set `precision` to fp16"):
        check_precision("bf16", CUDA)
    for precision, device in (("fp16", CUDA), ("float32", CUDA), ("bf16", CPU)):
        check_precision(precision, device)
