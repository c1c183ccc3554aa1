"""A part of a set: whole identities by seed, within both limits; a larger one holds the smaller; no more is decoded."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import encoded_face, training_set

from tuner.config.run import DataConfig
from tuner.data import folder as folder_module
from tuner.data import records as records_module
from tuner.data.faces import FaceSet
from tuner.data.source import load_faces
from tuner.data.subset import Subset
from tuner.errors import UserError
from tuner.training.faces import prepare_faces

LABELS = [label for label in range(9) for _ in range(label + 1)]  # 1 to 9 images, 45 in all


@given(
    counts=st.lists(st.integers(1, 9), min_size=8, max_size=30),
    max_identities=st.none() | st.integers(4, 40),
    max_images=st.none() | st.integers(36, 300),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_whole_identities_within_the_limits(
    counts: list[int], max_identities: int | None, max_images: int | None, seed: int, data: st.DataObject
) -> None:
    owners = data.draw(st.permutations([label for label, count in enumerate(counts) for _ in range(count)]))
    labels, names = np.array(owners), tuple(f"p{label}" for label in range(len(counts)))
    subset = Subset(max_identities, max_images, seed=seed)
    rows, chosen, chosen_names = subset.choose(labels, names, source="test")
    kept = [int(name[1:]) for name in chosen_names]
    assert kept == sorted(kept)
    assert rows.tolist() == [row for row, label in enumerate(owners) if label in kept]
    assert [chosen_names[label] for label in chosen] == [names[label] for label in labels[rows]]
    assert len(kept) <= (max_identities or len(counts))
    assert len(rows) <= (max_images or len(labels))
    if len(kept) < min(max_identities or 99, len(counts)):  # another identity of any size would not be sure to fit
        assert max_images is not None
        assert len(rows) + max(counts) > max_images
    again = Subset(max_identities, max_images, seed=seed).choose(labels, names, source="test")
    assert again[2] == chosen_names
    larger = Subset(max_identities and max_identities + 3, max_images and max_images + 20, seed=seed)
    assert set(chosen_names) <= set(larger.choose(labels, names, source="test")[2])


def test_seeds_draw_other_identities() -> None:
    labels, names = np.arange(100), tuple(map(str, range(100)))
    drawn = {Subset(10, seed=seed).choose(labels, names, source="test")[2] for seed in range(20)}
    assert len(drawn) == 20


def make(folder: Path, kind: str) -> Path:
    if kind == "records":
        return training_set(folder, LABELS)[0]
    for index, label in enumerate(LABELS):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        (folder / str(label) / f"{index:03d}.png").write_bytes(encoded_face(index))
    return folder


def load(source: Path, cache: Path, subset: Subset) -> FaceSet:
    return load_faces(str(source), image_size=16, identities=4, images_per_identity=2, cache=cache, subset=subset)


@pytest.mark.parametrize("kind", ["records", "folder"])
def test_only_the_part_is_decoded(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "set", kind)
    everything = load(source, tmp_path / "cache", Subset())
    module = records_module if kind == "records" else folder_module
    decoded, decode = [], module.decode_image
    monkeypatch.setattr(
        module, "decode_image", lambda encoded, **size: (decoded.append(encoded), decode(encoded, **size))[1]
    )
    part = load(source, tmp_path / "cache", Subset(max_identities=6, max_images=30, seed=1))
    assert 4 <= part.num_identities <= 6
    assert len(decoded) == len(part.labels) <= 30
    for name in part.names:
        ours = np.asarray(part.images[np.flatnonzero(part.labels == part.names.index(name))])
        theirs = everything.images[np.flatnonzero(everything.labels == everything.names.index(name))]
        assert np.array_equal(ours, theirs)
    load(source, tmp_path / "cache", Subset(max_identities=6, max_images=30, seed=1))
    assert len(decoded) == len(part.labels)
    load(source, tmp_path / "cache", Subset(max_identities=9, seed=7))
    assert len(decoded) == len(part.labels), "all of it is all of it, whatever the seed"
    assert load(source, tmp_path / "cache", Subset(max_identities=6, max_images=30, seed=2)).digest != part.digest


def test_both_kinds_of_source_choose_alike(tmp_path: Path) -> None:
    subset = Subset(max_identities=5, seed=3)
    one, other = (load(make(tmp_path / kind, kind), tmp_path / "cache", subset) for kind in ("records", "folder"))
    assert one.digest == other.digest


def test_the_setting_reaches_the_faces(tmp_path: Path) -> None:
    source = make(tmp_path / "set", "folder")
    config = DataConfig(source=str(source), image_size=32, max_identities=7, held_out=0.5, split_seed=5)
    seen, unseen = prepare_faces(config, cache=tmp_path / "cache")
    assert seen.num_identities + unseen.num_identities == 7
    rendered = DataConfig(image_size=32, identities=50, images_per_identity=6, max_images=60, max_identities=12)
    seen, unseen = prepare_faces(rendered, cache=tmp_path / "cache")
    assert sorted(seen.names + unseen.names) == [f"synthetic-{number:05d}" for number in range(10)]


def test_parts_that_are_too_small_are_told(tmp_path: Path) -> None:
    source = make(tmp_path / "set", "folder")
    with pytest.raises(UserError, match=r"`max_identities` None and `max_images` 3 leave [012] of `.*set`; raise them"):
        load(source, tmp_path / "cache", Subset(max_images=3))
    with pytest.raises(UserError, match=r"`max_identities` 3 and `max_images` None leave 3 of"):
        load(source, tmp_path / "cache", Subset(max_identities=3))
    with pytest.raises(UserError, match=r"leave 3 of `synthetic`"):
        load_faces("synthetic", image_size=32, identities=9, images_per_identity=5, subset=Subset(max_images=19))
