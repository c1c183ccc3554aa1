"""Damaged files of every format of face data: each must be read, or refused in one line; nothing else may happen.

    python benchmarks/fuzz_formats.py [--inputs 100000] [--seed 0]

Sound files (RecordIO with both kinds of header and split records, `.bin` pickles of several protocols, a list of pairs,
the text files of IJB) are damaged: bytes changed, pieces cut off, repeated, moved or made random. They are then
read to the end, images decoded. Rule: no input raises anything but a UserError of one line, takes more than ten seconds
or ends the process. Inputs are a function of (seed, number), so that a failure can be repeated with `--only`.
"""

import argparse
import faulthandler
import logging
import pickle
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
from machine import banner

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from records import MAGIC, encoded_face, payload, write_records

from tuner.data.ijb import load_ijb
from tuner.data.records import record_recipe
from tuner.data.verification_sets import load_verification_set
from tuner.errors import UserError

SECONDS = 10
SIZE = 32
FACES = [encoded_face(seed, size=6, kind=("PNG", "JPEG")[seed % 2]) for seed in range(20)]
SAME = [True, False] * 5


class TooLongError(BaseException):
    """An input is read for too long; no reader may take it for an error of the file."""


def make_records(folder: Path, rng: np.random.Generator) -> None:
    """Write a set of eight images, its header at key 0, an index in any order, and a `property` file."""
    vectors = rng.random() < 0.5
    payloads = {0: payload(b"", [9.0, 13.0])}
    for key in range(1, 9):
        label = float(key % 4)
        image = FACES[key] + int(rng.integers(3)) * MAGIC
        payloads[key] = payload(image + bytes(-len(image) % 4), [label, label] if vectors else label, key=key)
    for key in range(9, 13):
        payloads[key] = payload(b"", [1.0, 2.0])
    write_records(folder / "train.rec", payloads, order=rng.permutation(13).tolist())
    (folder / "property").write_text("4,6,6\n")


def make_bin(folder: Path, rng: np.random.Generator) -> None:
    """Write a pickle of bytes or arrays at a protocol from 0 to 5."""
    faces = [np.frombuffer(face, np.uint8) for face in FACES] if rng.random() < 0.5 else FACES
    data = pickle.dumps((faces, np.array(SAME) if rng.random() < 0.3 else SAME), protocol=int(rng.integers(6)))
    (folder / "set.bin").write_bytes(data)


def make_pairs(folder: Path, rng: np.random.Generator) -> None:
    """Write a list of pairs of three images."""
    names = ["0.png", "1.png", "2.png"]
    for name, face in zip(names, FACES, strict=False):
        (folder / name).write_bytes(face)
    lines = [f"{names[rng.integers(3)]} {names[rng.integers(3)]} {number % 2}" for number in range(12)]
    (folder / "pairs.txt").write_text("\n".join(lines))


def make_ijb(folder: Path, rng: np.random.Generator) -> None:
    """Write a template set of four crops."""
    (folder / "loose_crop").mkdir()
    for number in range(4):
        (folder / "loose_crop" / f"{number}.jpg").write_bytes(FACES[number])
    (folder / "x_face_tid_mid.txt").write_text("".join(f"{number}.jpg {number // 2} {number}\n" for number in range(4)))
    (folder / "x_template_pair_label.txt").write_text("0 1 1\n1 0 0\n")
    points = [" ".join(f"{value:.3f}" for value in rng.random(10) * 6) for _ in range(4)]
    (folder / "x_name_5pts_score.txt").write_text("".join(f"{n}.jpg {points[n]} 0.9\n" for n in range(4)))


def read_records(folder: Path) -> None:
    """Read all headers and decode all images."""
    for _ in record_recipe(folder / "train.rec", image_size=SIZE).blocks():
        pass


def read_pairs_of(name: str) -> Callable[[Path], None]:
    """Return a function that reads the verification set `name`, decoded in memory."""

    def read(folder: Path) -> None:
        load_verification_set(folder / name, image_size=SIZE, cache=folder / name / "no folder")

    return read


def read_ijb(folder: Path) -> None:
    """Read the text files and align all crops."""
    for _ in load_ijb(folder).crops():
        pass


FORMATS: dict[str, tuple[Callable[[Path, np.random.Generator], None], Callable[[Path], None]]] = {
    "records": (make_records, read_records),
    "bin": (make_bin, read_pairs_of("set.bin")),
    "pairs": (make_pairs, read_pairs_of("pairs.txt")),
    "ijb": (make_ijb, read_ijb),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return `data` with one kind of damage."""
    if not data:
        return rng.bytes(int(rng.integers(40)))
    first, second = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    kind = rng.integers(7)
    if kind == 0:
        return data[:first]
    if kind == 1:
        return data[:first] + data[second:]
    if kind == 2:
        return data[:second] + data[first:]
    if kind == 3:
        return data[:first] + rng.bytes(int(rng.integers(1, 20))) + data[first:]
    if kind == 4:
        return rng.bytes(int(rng.integers(400)))
    changed = bytearray(data)
    reach = len(data) if kind == 5 else min(len(data), 80)  # headers are small
    for place in rng.integers(0, reach, rng.integers(1, 6)).tolist():
        changed[place] = int(rng.choice([0, 1, 9, 10, 32, 48, 57, 127, 128, 255, int(rng.integers(256))]))
    return bytes(changed)


def outcome(name: str, seed: int, number: int, folder: Path) -> str:
    """Make input `number`, damage up to three of its files, read it, and return what happened."""
    rng = np.random.default_rng([seed, number])
    make, read = FORMATS[name]
    make(folder, rng)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if name == "records":
        files += [folder / "train.idx", folder / "train.rec", folder / "train.rec"]  # rather than `property`
    for _ in range(int(rng.integers(4))):
        path = files[rng.integers(len(files))]
        path.write_bytes(damaged(path.read_bytes(), rng))
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        read(folder)
    except UserError as error:
        return "failed: an error of several lines" if "\n" in str(error) else "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 whatever it is, it is the finding
        return f"failed: {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def main() -> int:
    """Print counts and time; return 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, default=None, help="the number of one input")
    arguments = parser.parse_args()
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _too_long)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # Pillow's remarks on damaged tags
    print(banner("numpy", "pillow"))
    counts: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    slowest: Counter[str] = Counter()
    numbers = range(arguments.inputs) if arguments.only is None else [arguments.only]
    with tempfile.TemporaryDirectory() as root:
        for number in numbers:
            name = list(FORMATS)[number % len(FORMATS)]
            folder = Path(root) / str(number)
            folder.mkdir()
            begin = time.perf_counter()
            what = outcome(name, arguments.seed, number, folder)
            spent = time.perf_counter() - begin
            seconds[name] += spent
            slowest[name] = max(slowest[name], spent)
            if what.startswith("failed"):
                print(f"input {number} ({name}) {what}")
            counts[name, what.partition(":")[0]] += 1
            shutil.rmtree(folder)
    print(f"\n{'format':<8} {'inputs':>7} {'read':>7} {'refused':>8} {'failed':>7} {'seconds':>8}  slowest")
    for name in FORMATS:
        read, refused, failed = (counts[name, what] for what in ("read", "refused", "failed"))
        row = f"{name:<8} {read + refused + failed:>7} {read:>7} {refused:>8} {failed:>7} {seconds[name]:>8.1f}"
        print(f"{row}  {1000 * slowest[name]:.0f} ms")
    return 1 if any(what == "failed" for _, what in counts) else 0


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError(f"took more than {SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
