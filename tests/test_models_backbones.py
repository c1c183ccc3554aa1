"""Backbones by name: shapes, sizes, layouts, what is refused, and weights from a file."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tuner.config.run import FaceConfig, ModelConfig
from tuner.errors import UserError
from tuner.models import iresnet, mobilefacenet
from tuner.models.backbones import build_backbone
from tuner.models.names import OWN, check_backbone
from tuner.models.weights import load_weights, weights_digest
from tuner.training.fingerprint import fingerprint


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(**changes: int) -> nn.Module:
    return build_backbone("iresnet_small", **{"image_size": 32, "embedding_size": 8, **changes})


@pytest.mark.parametrize("name", OWN)
def test_maps_images_of_112_pixels_to_embeddings(name: str) -> None:
    backbone = build_backbone(name, image_size=112, embedding_size=512)
    with torch.no_grad():
        embeddings = backbone(torch.randn(2, 3, 112, 112))
    assert embeddings.shape == (2, 512)
    assert embeddings.isfinite().all()


def test_names_are_those_of_the_shapes() -> None:
    assert set(OWN) == {*iresnet.SHAPES, *mobilefacenet.SHAPES}


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [("mobilefacenet", 128, 1_003_136), ("mobilefacenet", 512, 1_200_512), ("mbf", 512, 2_059_520)],
)
def test_parameter_counts_of_mobilefacenet(name: str, size: int, count: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, image_size=112, embedding_size=size)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count
    if (name, size) == ("mobilefacenet", 128):  # The paper counts 0.99 million: BN folded into the layers before it.
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert count - sum(norm.num_features for norm in norms) == 993_344


def batch_norm(name: str) -> list[str]:
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def conv_unit(name: str, *, linear: bool = False) -> list[str]:
    slopes = [] if linear else [f"{name}.layers.2.weight"]
    return [f"{name}.layers.0.weight", *batch_norm(f"{name}.layers.1"), *slopes]


def bottleneck(name: str) -> list[str]:
    first, second, third = (f"{name}.layers.{part}" for part in range(3))
    return [*conv_unit(first), *conv_unit(second), *conv_unit(third, linear=True)]


@pytest.mark.parametrize("name", ["mobilefacenet", "mbf"])
def test_mobilefacenet_has_the_public_layout(name: str) -> None:
    expected = [*conv_unit("layers.0"), *conv_unit("layers.1")]
    for layer, units in ((2, 0), (3, 4), (4, 0), (5, 6), (6, 0), (7, 2)):
        at = f"layers.{layer}"
        expected += [n for unit in range(units) for n in bottleneck(f"{at}.layers.{unit}")] if units else bottleneck(at)
    expected += [*conv_unit("conv_sep"), *conv_unit("features.layers.0", linear=True)]
    expected += ["features.layers.2.weight", *batch_norm("features.layers.3")]
    with torch.device("meta"):
        assert list(build_backbone(name, image_size=112, embedding_size=512).state_dict()) == expected


@pytest.mark.parametrize("name", ["iresnet_small", "mobilefacenet"])
def test_embeddings_are_float32_under_autocast(name: str) -> None:
    backbone = build_backbone(name, image_size=32, embedding_size=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = backbone(torch.randn(2, 3, 32, 32))
    assert embeddings.dtype == torch.float32
    torch.autograd.backward(embeddings.square().sum())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("classifier", "size"), [("resnet18", 48), ("mobilenet_v3_small", 112), ("vit_b_16", 32), ("squeezenet1_1", 64)]
)
def test_torchvision_classifiers_are_backbones(classifier: str, size: int) -> None:
    backbone = build_backbone(f"torchvision/{classifier}", image_size=size, embedding_size=16)
    embeddings = backbone(torch.randn(2, 3, size, size))
    assert embeddings.shape == (2, 16)
    assert embeddings.mean(0).abs().max() < 1e-4  # BN over the batch


@pytest.mark.parametrize(("classifier", "size"), [("alexnet", 32), ("vit_b_16", 40), ("inception_v3", 64)])
def test_a_size_that_a_torchvision_classifier_does_not_take_is_refused(classifier: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"torchvision/{classifier} does not take images of {size} x {size} pixels"):
        build_backbone(f"torchvision/{classifier}", image_size=size, embedding_size=8)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("iresnet-50", "did you mean `iresnet50`"),
        ("mobilfacenet", "did you mean `mobilefacenet`"),
        ("resnet18", "did you mean `"),
        ("torchvision/resnet81", "did you mean `torchvision/resnet18`"),
        ("torchvision/nothing of the kind", "a classifier of torchvision"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known_one(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        check_backbone(name)
    with pytest.raises(ValidationError, match=hint):
        ModelConfig(backbone=name)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 16, but got 50; 48 is the nearest"):
        small(image_size=50)
    with pytest.raises(UserError, match="embedding_size >= 1"):
        small(embedding_size=0)


def test_own_backbones_need_no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert check_backbone("iresnet50") == "iresnet50"
    small()


def test_weights_of_a_file_are_those_of_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved, other = small(), small()
    torch.save(saved.state_dict(), tmp_path / "backbone.pth")
    load_weights(other, tmp_path / "backbone.pth")
    for name, value in saved.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_weights_that_do_not_fit_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    state = small(embedding_size=4).state_dict()
    del state["conv1.weight"], state["bn1.weight"]
    state["module.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        load_weights(small(), tmp_path / "w.pth")
    message = str(caught.value)
    assert "2 missing (conv1.weight, bn1.weight)" in message
    assert "1 unexpected (module.conv1.weight)" in message
    assert "of another shape (fc.weight (4, 384) for (8, 384), fc.bias (4,) for (8,), " in message
    assert "\n" not in message


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of the file ran",))


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pth"
    for content in ([torch.zeros(1)], {"state_dict_backbone": {}, "epoch": 3}, {"a": Trap()}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"weights: .*state dict") as caught:
            load_weights(small(), path)
        assert "\n" not in str(caught.value)
    torch.save(small().state_dict(), path)
    whole = path.read_bytes()
    for damaged in (b"", b"not a file of torch", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as one"):
            load_weights(small(), path)
    for absent in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_weights(small(), absent)
        with pytest.raises(UserError, match="cannot be read"):
            weights_digest(absent)
    assert capsys.readouterr().out == ""


def test_weights_enter_the_fingerprint_by_content(tmp_path: Path) -> None:
    def mark(weights: Path | None) -> object:
        model = {"weights": None if weights is None else str(weights)}
        config = FaceConfig.model_validate({"model": model})
        return fingerprint(config, seed=0, train="a", verification="b", device=torch.device("cpu"))

    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_bytes(b"1")
    same.write_bytes(b"1")
    other.write_bytes(b"2")
    assert mark(one) == mark(same)
    assert mark(one) != mark(other)
    assert mark(one) != mark(None)
    before = mark(one)
    one.write_bytes(b"33")
    assert mark(one) != before
