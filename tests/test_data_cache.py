"""The cache of decoded faces: served while sound, made again where damaged, done without where it must be."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tuner.data import cache as cache_module
from tuner.data.cache import cached, default_cache
from tuner.data.faces import FaceSet, Images
from tuner.data.recipe import Recipe, recipe_key
from tuner.errors import UserError
from tuner.names import CACHE_VARIABLE


class Counted:
    """A recipe of small random images, and how often it was made."""

    def __init__(self, *, seed: int = 0, fail_at: int | None = None) -> None:
        self.times_made = 0
        self.images = np.random.default_rng(seed).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
        self._fail_at = fail_at
        self.recipe = Recipe(
            key=recipe_key(seed=seed),
            image_size=4,
            labels=np.array([0, 0, 1, 1, 2, 3, 3], dtype=np.int64),
            names=("a", "b", "c", "ü"),
            source="test",
            blocks=self._blocks,
        )

    def _blocks(self) -> Iterator[Images]:
        self.times_made += 1
        for start in (0, 3, 6):
            if start == self._fail_at:
                raise RuntimeError("decoding failed")
            yield self.images[start : start + 3]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def same(one: FaceSet, other: FaceSet) -> bool:
    return np.array_equal(one.images, other.images) and one.digest == other.digest and one.names == other.names


def test_the_second_load_reads_what_the_first_wrote(tmp_path: Path) -> None:
    counted = Counted()
    first = cached(counted.recipe, cache=tmp_path / "deep" / "cache")
    second = cached(counted.recipe, cache=tmp_path / "deep" / "cache")
    assert counted.times_made == 1
    assert same(first, second)
    assert np.array_equal(second.images, counted.images)
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert len(entries(tmp_path / "deep" / "cache")) == 1


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    stored = cached(Counted().recipe, cache=tmp_path / "cache")
    (tmp_path / "file").write_text("no folder")
    in_memory = cached(Counted().recipe, cache=tmp_path / "file")
    assert same(stored, in_memory)
    assert cached(Counted(seed=1).recipe, cache=tmp_path / "cache").digest != stored.digest


def truncate(entry: Path) -> None:
    os.truncate(entry / "images.npy", 200)


def change_a_pixel(entry: Path) -> None:
    data = bytearray((entry / "images.npy").read_bytes())
    data[-1] ^= 1
    (entry / "images.npy").write_bytes(data)


def change_the_digest(entry: Path) -> None:
    stored = json.loads((entry / "meta.json").read_text())
    stored["meta"]["digest"] = "0" * 64
    (entry / "meta.json").write_text(json.dumps(stored))


def empty_the_meta(entry: Path) -> None:
    (entry / "meta.json").write_bytes(b"")


def meta_of_another_shape(entry: Path) -> None:
    (entry / "meta.json").write_text("[1, 2]")


def remove_the_images(entry: Path) -> None:
    (entry / "images.npy").unlink()


def store_a_pickle(entry: Path) -> None:
    np.save(entry / "images.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)


def store_other_images(entry: Path) -> None:
    np.save(entry / "images.npy", np.zeros((6, 4, 4, 3), dtype=np.uint8))


DAMAGES = [
    truncate,
    change_a_pixel,
    change_the_digest,
    empty_the_meta,
    meta_of_another_shape,
    remove_the_images,
    store_a_pickle,
    store_other_images,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_made_again(damage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    counted = Counted()
    first = cached(counted.recipe, cache=tmp_path)
    expected = np.array(first.images), first.digest
    damage(entries(tmp_path)[0])
    with caplog.at_level(logging.WARNING):
        second = cached(counted.recipe, cache=tmp_path)
    assert "damaged" in caplog.text
    assert counted.times_made == 2
    assert np.array_equal(second.images, expected[0])
    assert second.digest == expected[1]
    cached(counted.recipe, cache=tmp_path)
    assert counted.times_made == 2
    assert len(entries(tmp_path)) == 1


def test_large_entries_are_checked_in_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CHECKED_BYTES", 64)
    monkeypatch.setattr(cache_module, "_SAMPLE_BYTES", 16)
    counted = Counted()
    cached(counted.recipe, cache=tmp_path)
    cached(counted.recipe, cache=tmp_path)
    assert counted.times_made == 1
    change_a_pixel(entries(tmp_path)[0])
    cached(counted.recipe, cache=tmp_path)
    assert counted.times_made == 2


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="decoding failed"):
        cached(Counted(fail_at=3).recipe, cache=tmp_path)
    assert entries(tmp_path) == []


def test_an_unwritable_cache_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    counted = Counted()
    with caplog.at_level(logging.WARNING):
        faces = cached(counted.recipe, cache=tmp_path / "file" / "cache")
    assert np.array_equal(faces.images, counted.images)
    assert not faces.images.flags.writeable
    assert f"set {CACHE_VARIABLE}" in caplog.text
    assert len(caplog.records) == 1


def test_another_process_may_be_faster(tmp_path: Path) -> None:
    slow, fast = Counted(), Counted()
    plain = slow.recipe.blocks

    def overtaken() -> Iterator[Images]:
        yield from plain()
        cached(fast.recipe, cache=tmp_path)

    object.__setattr__(slow.recipe, "blocks", overtaken)
    assert same(cached(slow.recipe, cache=tmp_path), cached(fast.recipe, cache=tmp_path))
    assert (slow.times_made, fast.times_made) == (1, 1)
    assert len(entries(tmp_path)) == 1


def test_the_default_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert default_cache().name == "fastface-tuner"


def large(*, num_images: int) -> Recipe:
    """Return a recipe of many images that fails when the first one is asked for."""

    def blocks() -> Iterator[Images]:
        raise AssertionError("an image was decoded")

    labels = np.broadcast_to(np.int64(0), num_images)
    return Recipe(recipe_key(large=num_images), 112, labels, ("a",), "large.rec", blocks)


def free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_a_set_larger_than_the_disk_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MS1MV3 takes 195 GB; the way out is another disk or a part of the set."""
    free_space(monkeypatch, 60 * 2**30)
    with pytest.raises(UserError, match=r"`large\.rec` take 181\.5 GiB .*\(60\.0 GiB are free\).*max_identities"):
        cached(large(num_images=5_179_510), cache=tmp_path / "cache")
    free_space(monkeypatch, 2**40)
    with pytest.raises(AssertionError, match="was decoded"):
        cached(large(num_images=5_179_510), cache=tmp_path / "cache")
    assert "5179510 faces are decoded once and take 181.5 GiB of the 1024.0 GiB free" in caplog.text
    assert entries(tmp_path / "cache") == []


def test_a_small_set_stays_in_memory_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free_space(monkeypatch, 10)
    counted = Counted()
    assert np.array_equal(cached(counted.recipe, cache=tmp_path).images, counted.images)
    assert "10 B are free" in caplog.text


def test_chosen_identities_stay_on_the_disk(tmp_path: Path) -> None:
    """What is chosen of a map, and chosen again of that, reads like an array and holds no image in memory."""
    counted = Counted()
    stored = cached(counted.recipe, cache=tmp_path)
    chosen = stored.select([3, 0, 2]).select([0, 1])
    expected = counted.images[[0, 1, 5, 6]]
    assert chosen.labels.tolist() == [1, 1, 0, 0]
    assert not isinstance(chosen.images, np.ndarray)
    assert (chosen.images.shape, chosen.images.ndim, chosen.images.dtype) == (expected.shape, 4, np.uint8)
    assert len(chosen.images) == 4
    assert np.array_equal(np.asarray(chosen.images), expected)
    for index in (2, slice(1, 3), np.array([3, 0, 3])):
        assert np.array_equal(chosen.images[index], expected[index])
