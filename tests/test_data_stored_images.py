"""Images taken by number: the same from memory, from a map, from the device's memory, and in another process."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_batches import CPU

from tuner.data import stored_images
from tuner.data.faces import ChosenImages, FaceSet, Images
from tuner.data.stored_images import Cache, StoredImages, is_held
from tuner.errors import UserError

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def pixels() -> Images:
    return np.random.default_rng(0).integers(0, 256, size=(90, 24, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mapped(pixels: Images, tmp_path_factory: pytest.TempPathFactory) -> Images:
    path = tmp_path_factory.mktemp("map") / "images.npy"
    np.save(path, pixels)
    images: Images = np.load(path, mmap_mode="r")
    return images


@given(chosen=st.lists(st.integers(0, 29), min_size=1, max_size=50))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("large", [False, True])
def test_images_are_those_of_the_numbers(pixels: Images, mapped: Images, chosen: list[int], large: bool) -> None:
    """In a map that is taken for a large one as well, whole, sliced, or in part."""
    numbers, rows = np.array(chosen), np.arange(89, 59, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_images, "LARGE_MAP_BYTES", 0 if large else 2**40)
        for images, expected in (
            (pixels, pixels[numbers]),
            (mapped, pixels[numbers]),
            (mapped[7:], pixels[7:][numbers]),
            (mapped[::2], pixels[::2][numbers]),
            (ChosenImages(mapped, rows), pixels[rows[numbers]]),
        ):
            taken = StoredImages(images, cache="auto", device=CPU).take(numbers)
            assert np.array_equal(taken, expected)
            taken.zero_()  # it is the caller's
    assert mapped[:30].any(axis=(1, 2, 3)).all()


def test_held_images_are_the_same_whatever_becomes_of_those_on_the_host(
    pixels: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_images, "is_held", lambda *_, **__: True)
    monkeypatch.setattr(stored_images, "_UPLOAD_BYTES", 20_000)  # several parts
    rows, numbers = np.arange(80, 3, -1), np.array([5, 0, 76, 5])
    on_host = pixels.copy()
    held = StoredImages(ChosenImages(on_host, rows), cache="device", device=CPU)
    on_host[:] = 0
    taken = held.take(numbers)
    assert np.array_equal(taken, pixels[rows[numbers]])
    taken.zero_()
    assert np.array_equal(held.take(numbers), pixels[rows[numbers]])


@pytest.mark.parametrize(
    ("cache", "num_bytes", "held"),
    [("auto", 250, True), ("auto", 251, False), ("disk", 1, False), ("device", 251, True), ("device", 1000, True)],
)
def test_the_device_holds_what_fits(cache: Cache, num_bytes: int, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 4000))
    assert is_held(num_bytes, cache=cache, device=CUDA) is held
    assert not is_held(num_bytes, cache=cache, device=CPU)


def test_what_does_not_fit_or_is_not_known_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 4000))
    with pytest.raises(UserError, match="take 1 KiB and 1000 B are free; write `cache: auto`"):
        is_held(1024, cache="device", device=CUDA)
    with pytest.raises(UserError, match="`cache` must be auto, disk or device, but got 'ram'"):
        is_held(1, cache="ram", device=CPU)  # type: ignore[arg-type]


def part_of(mapped: Images) -> FaceSet:
    labels = np.arange(len(mapped)) % 9
    return FaceSet(mapped, labels, tuple("abcdefghi"), "digest", "test").select([4, 1])


def take(faces: FaceSet, numbers: list[int]) -> bytes:
    return StoredImages(faces.images, cache="auto", device=CPU).take(np.array(numbers)).numpy().tobytes()


def test_forked_workers_read_the_same_map(mapped: Images) -> None:
    faces = part_of(mapped)
    numbers = [list(range(start, start + 5)) for start in range(0, 15, 5)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        taken = pool.starmap(take, [(faces, part) for part in numbers])
    assert taken == [take(faces, part) for part in numbers]


def test_a_pickle_names_the_file_and_holds_no_image(pixels: Images, mapped: Images, tmp_path: Path) -> None:
    faces = part_of(mapped)
    pickled = pickle.dumps(faces)
    assert len(pickled) < 3000 < np.asarray(faces.images).nbytes
    again = pickle.loads(pickled)
    assert np.array_equal(again.images, faces.images)
    assert not again.images.stored.flags.writeable
    # A part of a map is no whole file, and what is in memory has none.
    for images in (mapped[7:], pixels):
        chosen = ChosenImages(images, np.array([3, 1]))
        assert np.array_equal(pickle.loads(pickle.dumps(chosen)), chosen)
