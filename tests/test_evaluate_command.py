"""`fastface-tuner evaluate`: a backbone's file or run's folder, scored on everything that can be verified on."""

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from records import encoded_face, training_set
from test_ijb import write_ijb

from tuner.cli.main import main
from tuner.config.run import RunConfig
from tuner.data.faces import FaceSet, Images
from tuner.data.ijb import TEMPLATE_POINTS, TemplateSet, load_ijb
from tuner.data.source import load_faces
from tuner.data.split import Pairs
from tuner.data.verification_sets import compared_only, drawn_set, load_verification_set
from tuner.models.backbones import build_backbone
from tuner.models.names import OWN
from tuner.models.recognise import Recognised, recognise
from tuner.training.embedding import embedder
from tuner.training.templates import FARS, verify_templates
from tuner.training.verify import PairScores, verify

SIZE = 112
FEATURES = 6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone("iresnet_small", image_size=SIZE, embedding_size=FEATURES)


@pytest.fixture
def place(tmp_path: Path, network: torch.nn.Module) -> Path:
    """Return a folder with weights and one of everything to verify on."""
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    for name, first in (("lfw", 0), ("cfp_fp", 40)):
        images = [encoded_face(first + number, size=24) for number in range(40)]
        for number in range(2, 40, 4):
            images[number + 1] = images[number]
        path = tmp_path / "sets" / f"{name}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps((images, [False, True] * 10)))
    for person in range(4):
        folder = tmp_path / "faces" / f"person {person}"
        folder.mkdir(parents=True)
        for number in range(4):
            (folder / f"{number}.png").write_bytes(encoded_face(100 + 10 * person + number, size=24))
    files = sorted((tmp_path / "faces").rglob("*.png"))
    lines = [f"{files[i]}\t{files[(5 * i) % 16]}\t{i % 2}" for i in range(16)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    training_set(tmp_path / "records", [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    write_ijb(tmp_path / "IJBX")
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastface-tuner", "evaluate", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return int(ending.value.code or 0), captured.out, captured.err

    return run


def figures(scores: PairScores) -> dict[str, float]:
    return {"accuracy": scores.accuracy, "accuracy_std": scores.accuracy_std, "tar": scores.tar}


def faces_of(path: Path) -> FaceSet:
    return load_faces(str(path), image_size=SIZE, identities=0, images_per_identity=0)


def test_everything_that_can_be_verified_on_is_scored(
    place: Path, network: torch.nn.Module, command: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ["backbone.pth", "sets", "pairs.txt", "faces", "records/train.rec", "IJBX", "--far", "0.2"]
    code, out, _ = command(*arguments, "--batch-size", "7", "--json")
    assert code == 0
    found = json.loads(out)
    about = {"weights": "backbone.pth", "backbone": "iresnet_small", "image_size": SIZE, "embedding_size": FEATURES}
    assert {name: found[name] for name in (*about, "device", "far")} == {**about, "device": "cpu", "far": 0.2}
    embed = embedder(network, CPU)
    expected = {
        name: figures(verify(load_verification_set(place / name, image_size=SIZE), embed, far=0.2))
        for name in ("sets/cfp_fp.bin", "sets/lfw.bin", "pairs.txt")
    }
    for name in ("faces", "records/train.rec"):
        drawn = drawn_set(faces_of(place / name), num_pairs=6000, seed=0)
        expected[name] = figures(verify(drawn, embed, far=0.2))
    assert [each["path"] for each in found["sets"]] == list(expected)
    assert [{key: each[key] for key in expected["faces"]} for each in found["sets"]] == list(expected.values())
    assert [each["name"] for each in found["sets"]] == ["cfp_fp", "lfw", "pairs", "faces", "train.rec"]
    assert [(each["pairs"], each["images"]) for each in found["sets"][:3]] == [(20, 40), (20, 40), (16, 16)]
    assert found["sets"][3]["note"] == "faces: 40 pairs, drawn with seed 0 from 16 images of 4 people"
    (templates,) = found["templates"]
    assert (templates["name"], templates["images"], templates["templates"], templates["pairs"]) == ("ijbx", 8, 4, 5)
    tars = verify_templates(load_ijb(place / "IJBX"), embed)
    assert {float(far): tar for far, tar in templates["tar"].items()} == tars
    assert tuple(tars) == FARS


def test_the_table_for_people(place: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("backbone.pth", "sets/lfw.bin", "faces", "IJBX")
    assert code == 0
    for text in ("iresnet_small, 112 x 112 pixels", "accuracy", "TAR@FAR=0.01", "lfw", "TAR ijbx", "1e-06", "drawn"):
        assert text in out
    assert all(len(line) <= 80 for line in out.splitlines() if "images" not in line)


def test_a_run_says_what_its_backbone_is_and_how_it_was_verified(
    place: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """The weights of a torchvision classifier alone do not say whose they are."""
    model = {"backbone": "torchvision/mobilenet_v3_small", "embedding_size": 4}
    evaluation = {"far": 0.3, "pairs": 20}
    workload = {"data": {"image_size": 32, "split_seed": 5}, "model": model, "evaluation": evaluation}
    run = place / "run"
    run.mkdir()
    trained = build_backbone("torchvision/mobilenet_v3_small", image_size=32, embedding_size=4)
    torch.save(trained.state_dict(), run / "backbone.pth")
    code, _, err = command("run", "sets")
    assert code == 2
    assert "give --backbone, --image-size" in err
    assert "--embedding-size" not in err
    (run / "config.yaml").write_text(yaml.safe_dump(RunConfig(workload=workload).to_dict()))  # type: ignore[arg-type]
    code, out, _ = command("run", "faces", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["backbone"], found["image_size"], found["far"]) == ("torchvision/mobilenet_v3_small", 32, 0.3)
    assert "20 pairs, drawn with seed 5" in found["sets"][0]["note"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.pth", "sets"], "weights: absent.pth cannot be read (No such file"),
        (["pairs.txt", "sets"], "weights: pairs.txt must be a state dict saved by torch"),
        (["hostile.pth", "sets"], "weights: hostile.pth must be a state dict"),
        (["sets", "sets"], "weights: sets/backbone.pth cannot be read (No such file"),
        (["damaged", "sets"], "damaged/config.yaml: unknown key `wrkload`; did you mean `workload`?"),
        (["x" * 300, "sets"], "cannot be read (File name too long)"),
        (["backbone.pth", "absent"], "the verification set `absent` must be readable, but No such file"),
        (["backbone.pth", "x" * 300], "must be readable, but File name too long"),
        (["backbone.pth", "sets", "cut.bin"], "cut.bin` must be a pickle of images"),
        (["backbone.pth", "records/property"], "every line of `records/property` must be `image image 0`"),
        (["backbone.pth", "half"], "`half` must hold one file `*_template_pair_label.txt`, in itself or in `meta`"),
        (["backbone.pth", "empty"], "at least 4 identities are needed"),
        (["backbone.pth", "IJBX", "--image-size", "48"], "1 of another shape (fc.weight"),
        (["small.pth", "sets", "IJBX"], "IJB is verified at 112 x 112 pixels, but the backbone takes 32; leave out"),
        (["backbone.pth", "sets", "--backbone", "iresnet50"], "weights: the names and shapes in backbone.pth must be"),
        (["backbone.pth", "sets", "--backbone", "resnet"], "the backbone must be one of"),
        (["backbone.pth", "sets", "--embedding-size", "9"], "of another shape (fc.weight (6, 4704) for (9, 4704)"),
        (["backbone.pth", "sets", "--far", "1"], "`0 < --far < 1` must hold, but got 1.0"),
        (["backbone.pth", "sets", "--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N, but got 'gpu'"),
        (["backbone.pth", "sets", "--device", "cuda:99"], "--device cuda:99 must be there, but torch sees"),
        (["nan.pth", "sets"], "embeddings must be finite, but the weights give NaN"),
    ],
)
def test_what_cannot_be_scored_is_told_in_one_line(
    place: Path,
    network: torch.nn.Module,
    arguments: list[str],
    says: str,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    (place / "hostile.pth").write_bytes(_hostile(place / "mark"))
    (place / "damaged").mkdir()
    (place / "empty").mkdir()
    (write_ijb(place / "half") / "meta" / "ijbx_template_pair_label.txt").unlink()
    (place / "damaged" / "config.yaml").write_text("wrkload: {}")
    (place / "cut.bin").write_bytes((place / "sets" / "lfw.bin").read_bytes()[:-30])
    torch.save({name: value * np.nan for name, value in network.state_dict().items()}, place / "nan.pth")
    small = build_backbone("iresnet_small", image_size=32, embedding_size=4)
    torch.save(small.state_dict(), place / "small.pth")
    code, out, err = command(*arguments)
    (line,) = [line for line in err.splitlines() if "the published set of that name" not in line]
    assert (code, out) == (2, "")
    assert says in line
    assert not (place / "mark").exists()


class _Opened:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def _hostile(mark: Path) -> bytes:
    """Return weights that make a file where they are unpickled as they are."""
    content = io.BytesIO()
    torch.save({"conv1.weight": _Opened(mark)}, content)
    return content.getvalue()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("image_size", "features"), [(112, 512), (48, 7)])
def test_own_backbones_are_recognised_by_their_weights(name: str, image_size: int, features: int) -> None:
    with torch.device("meta"):
        state = build_backbone(name, image_size=image_size, embedding_size=features).state_dict()
    found = recognise(state)
    # Two names may stand for one network.
    with torch.device("meta"):
        again = build_backbone(found.backbone or "", image_size=image_size, embedding_size=features).state_dict()
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}
    assert (found.backbone, found.image_size, found.embedding_size) == (name, image_size, features)


def test_other_state_dicts_are_not() -> None:
    assert recognise({}) == Recognised()
    assert recognise({"fc.weight": torch.zeros(()), "layer1.0.x": torch.zeros(3)}) == Recognised()
    state = build_backbone("iresnet_small", image_size=32, embedding_size=4).state_dict()
    assert recognise({name: torch.zeros(()) for name in state}).backbone is None
    del state["fc.weight"]
    assert recognise(state) == Recognised(backbone="iresnet_small")


def test_images_that_no_pair_compares_are_not_embedded(tmp_path: Path, place: Path) -> None:
    faces = drawn_set(faces_of(place / "faces"), num_pairs=20, seed=3)
    some = slice(3, 7)
    pairs = Pairs(faces.pairs.left[some], faces.pairs.right[some], faces.pairs.same[some])
    drawn = replace(faces, pairs=pairs)
    fewer = compared_only(compared_only(drawn))
    kept = np.unique([drawn.pairs.left, drawn.pairs.right])
    assert len(fewer.images) == len(kept) < len(faces.images)
    for one, other in ((drawn.pairs.left, fewer.pairs.left), (drawn.pairs.right, fewer.pairs.right)):
        assert np.array_equal(np.asarray(drawn.images)[one], np.asarray(fewer.images)[other])
    assert np.array_equal(fewer.pairs.same, drawn.pairs.same)


def test_memory_does_not_grow_with_the_images_of_ijb(tmp_path: Path) -> None:
    """1 000 crops together are 38 MB; no more than a few blocks of 128 are there at once."""
    import tracemalloc

    (tmp_path / "a.png").write_bytes(encoded_face(0, size=8))
    num_images = 1000
    faces = TemplateSet(
        name="long",
        files=(tmp_path / "a.png",) * num_images,
        points=np.tile(TEMPLATE_POINTS / 14, (num_images, 1, 1)),
        scores=np.ones(num_images),
        template=np.arange(num_images) % 4,
        medium=np.arange(num_images),
        num_templates=4,
        pairs=Pairs(np.array([0, 1]), np.array([2, 3]), np.array([True, False])),
    )

    def embed(images: Images) -> np.ndarray:
        return images[:, ::40, ::40, 0].reshape(len(images), -1).astype(np.float32)

    done: list[tuple[int, int]] = []
    tracemalloc.start()
    verify_templates(faces, embed, progress=lambda *counts: done.append(counts))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 22e6
    assert done[-1] == (num_images, num_images)


def test_help_has_an_example(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "Example: fastface-tuner evaluate backbone.pth" in out


def test_nothing_of_a_sweep_is_imported(place: Path) -> None:
    program = (
        "import sys; from tuner.cli.main import app; app(['evaluate', 'backbone.pth', 'sets'], standalone_mode=False);"
        " print([name for name in ('ray', 'mlflow', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
