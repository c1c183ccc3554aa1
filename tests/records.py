"""An encoder of RecordIO and of encoded faces of the tests' own, made from the format's description alone."""

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def encoded_face(seed: int, *, size: int = 16, kind: str = "PNG") -> bytes:
    """Return an encoded image whose pixels follow from `seed`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def face_pixels(encoded: bytes) -> np.ndarray:
    """Return what an encoded image shows."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def payload(image: bytes, labels: float | Sequence[float], *, key: int = 0) -> bytes:
    """Return header and image; a single label goes into the header, a sequence after it."""
    if isinstance(labels, Sequence):
        return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0.0, key, 0, *labels) + image
    return struct.pack("<IfQQ", 0, labels, key, 0) + image


def parts_of(data: bytes) -> list[bytes]:
    """Return the payload split, as a writer does, at each magic number on a 4-byte boundary, which is dropped."""
    parts, start = [], 0
    for place in range(0, len(data) // 4 * 4, 4):
        if data[place : place + 4] == MAGIC:
            parts.append(data[start:place])
            start = place + 4
    return [*parts, data[start:]]


def framed(data: bytes) -> bytes:
    """Return a payload as a record."""
    parts = parts_of(data)
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def write_records(path: Path, payloads: Mapping[int, bytes], *, order: Sequence[int] | None = None) -> Path:
    """Write `.rec` in the order of `payloads` and `.idx` in the order of the keys in `order`; return the `.rec`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    offsets, position = {}, 0
    with path.open("wb") as file:
        for key, data in payloads.items():
            offsets[key] = position
            position += file.write(framed(data))
    lines = "".join(f"{key}\t{offsets[key]}\n" for key in (payloads if order is None else order))
    path.with_suffix(".idx").write_text(lines)
    return path


def training_set(
    folder: Path, labels: Sequence[int], *, vectors: bool = False, header: bool = True, property_file: bool = True
) -> tuple[Path, list[bytes]]:
    """Write an InsightFace set with one face for each label; return the `.rec` and the encoded faces.

    Keys 1 to N are the images; with `header`, key 0 and a record for each identity surround them. `vectors` puts the
    labels after the header instead of into it.
    """
    images = [encoded_face(seed) for seed in range(len(labels))]
    payloads: dict[int, bytes] = {}
    num_images, identities = len(labels), sorted(set(labels))
    if header:
        payloads[0] = payload(b"", [num_images + 1, num_images + len(identities) + 1])
    for key, (label, image) in enumerate(zip(labels, images, strict=True), start=1):
        payloads[key] = payload(image, [float(label), 7.0] if vectors else float(label), key=key)
    if header:
        for place, identity in enumerate(identities):
            at = [key for key, label in enumerate(labels, start=1) if label == identity]
            payloads[num_images + 1 + place] = payload(b"", [at[0], at[-1] + 1])
    if property_file:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "property").write_text(f"{max(labels) + 1},16,16\n")
    return write_records(folder / "train.rec", payloads), images
