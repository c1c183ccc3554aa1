"""A look at an InsightFace set: index and records, labels, `property`, images."""

from pathlib import Path
from typing import Final

import numpy as np

from tuner.data.findings import Checkup, counted
from tuner.data.image_checkup import Progress, check_images
from tuner.data.recordio import DamagedRecordError, RecordFile, Rows, read_property
from tuner.data.records import PROPERTY, training_rows
from tuner.data.subset import MIN_IDENTITIES
from tuner.errors import UserError

_LOOK: Final = 1000
"""Records between two reports of progress."""


def check_records(path: Path, *, full: bool, progress: Progress) -> Checkup:
    """Look at a `.rec` file, its `.idx` file and `property`; `full` decodes every image and finds what no key names."""
    checkup = Checkup(path, "an InsightFace set (RecordIO)")
    try:
        records = RecordFile(path)
        checkup.numbers["records"] = len(records)
        checkup.facts.append(f"{counted(len(records), 'record')} in {path.name} and {records.index.name}")
        if _any_damaged(records):
            _check_each(checkup, records, progress)
            return checkup
        records, rows, labels = training_rows(path)
    except UserError as error:
        checkup.problem(str(error))
        return checkup
    found, counts = np.unique(labels, return_counts=True)
    checkup.numbers |= {"identities": len(found), "images": len(labels)}
    each = f" ({counts.min()} to {counts.max()} each)" if len(counts) else ""
    identities = counted(len(found), "identity", plural="identities")
    checkup.facts.append(f"{identities}, {counted(len(labels), 'image')}{each}")
    if len(found) < MIN_IDENTITIES:
        checkup.problem(f"at least {MIN_IDENTITIES} identities are needed, but there are {len(found)}")
    _tell_labels(checkup, found, counts)
    if full and (left_out := records.left_out()):
        checkup.problem(f"{left_out:,} bytes of {path.name} belong to no key of {records.index.name}; copy both again")
    check_images(
        checkup,
        len(rows),
        load=lambda place: records.read(int(rows[place])).image,
        name=lambda place: f"key {records.keys[rows[place]]}",
        person=lambda place: int(labels[place]),
        full=full,
        progress=progress,
    )
    _tell_property(checkup, path.parent / PROPERTY, num_classes=int(found.max(initial=-1)) + 1)
    return checkup


def _any_damaged(records: RecordFile) -> bool:
    try:
        records.heads()
    except DamagedRecordError:
        return True
    return False


def _check_each(checkup: Checkup, records: RecordFile, progress: Progress) -> None:
    """Name every record that is damaged."""
    reasons = []
    for row in range(len(records)):
        try:
            records.read(row)
        except DamagedRecordError as error:
            reasons.append(error.reason)
        if row % _LOOK == 0:
            progress(row / len(records))
    number = counted(len(reasons), "record")
    text = f"{number} of {len(records):,} not whole; copy the .rec and the .idx file again"
    checkup.numbers["records_damaged"] = len(reasons)
    checkup.problem(text, reasons)


def _tell_labels(checkup: Checkup, found: Rows, counts: Rows) -> None:
    highest = int(found.max(initial=-1))
    if len(found) and highest + 1 > len(found):
        checkup.note(
            f"labels go from {found[0]} to {highest}, and {highest + 1 - len(found):,} below that have no image; the"
            " others are numbered anew"
        )
    single = found[counts == 1]
    checkup.numbers["identities_with_one_image"] = len(single)
    if len(single):
        number = counted(len(single), "identity", plural="identities")
        checkup.note(f"{number} with one image only, of which no pair can be made", map(str, single.tolist()))


def _tell_property(checkup: Checkup, path: Path, *, num_classes: int) -> None:
    if not path.exists():
        return
    try:
        named, height, width = read_property(path)
    except UserError as error:
        checkup.problem(str(error))
        return
    if named != num_classes:
        checkup.note(f"{PROPERTY} names {named:,} classes, but the labels make {num_classes:,}")
    sizes = checkup.numbers.get("image_sizes", {})
    if sizes and f"{width}x{height}" not in sizes:
        checkup.note(f"{PROPERTY} names images of {width}x{height}, but none looked at has that size")
