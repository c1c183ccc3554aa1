"""IJB-B and IJB-C, 1:1: which images make a template, which templates are compared, and the crops themselves."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.data.decoder import UndecodableError, decode_image, decoded_blocks
from tuner.data.faces import Images
from tuner.data.split import Indices, Pairs
from tuner.errors import UserError

CROPS: Final = "loose_crop"
_FACES: Final = "_face_tid_mid.txt"
_PAIRS: Final = "_template_pair_label.txt"
_LANDMARKS: Final = "_name_5pts_score.txt"
_SCORE: Final = 11
"""Column of the detector's score, after the name and five points."""

TEMPLATE_POINTS: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where eyes, nose and corners of the mouth (x, y) lie in an aligned crop of 112x112."""
TEMPLATE_SIZE: Final = 112


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """M images, the T templates that they make, and P pairs of templates.

    Args:
        name: of the set.
        files: the M crops.
        points: [M, 5, 2], the landmarks (x, y) in the crop, in pixels.
        scores: [M], the detector's.
        template: [M], the template that an image belongs to, 0 to T - 1.
        medium: [M], a number for the medium (a still or a video) that an image is from, within its template.
        num_templates: T.
        pairs: indices of templates, and whether both show one person.
    """

    name: str
    files: tuple[Path, ...]
    points: NDArray[np.float64]
    scores: NDArray[np.float64]
    template: Indices
    medium: Indices
    num_templates: int
    pairs: Pairs

    def crops(self, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Images]:
        """Yield the images as aligned crops, uint8 RGB [n, 112, 112, 3], in blocks; an undecodable one is a UserError.

        A crop is moved, turned and scaled so that its landmarks come to lie, by least squares, at `TEMPLATE_POINTS`.
        """

        def one(index: int) -> Images:
            try:
                return aligned_crop(self.files[index], self.points[index])
            except UndecodableError as error:
                raise UserError(
                    f"every image of {self.name} must decode to its end, but `{self.files[index]}` does not ({error});"
                    " copy the file again"
                ) from error

        return decoded_blocks(len(self.files), one, progress)


def is_ijb(root: Path) -> bool:
    """Return whether a folder is meant as IJB-B or IJB-C, sound or not; OSError where it cannot be looked at."""
    endings = (_FACES, _PAIRS, _LANDMARKS)
    return any(path.name.endswith(endings) for folder in (root / "meta", root) for path in folder.glob("*.txt"))


def load_ijb(root: Path) -> TemplateSet:
    """Return IJB-B or IJB-C from its folder; the images are not read.

    The folder holds `loose_crop/` and, in itself or in `meta/`, three text files that end in `_face_tid_mid.txt`
    (image, template, medium), `_template_pair_label.txt` (template, template, 1 or 0) and `_name_5pts_score.txt`
    (image, five points, detector score). The first and the last name the same images in the same order.

    Raises:
        UserError: a file is missing or of another form, the two lists of images differ, or a pair names a template
            that has no image.
    """
    faces_file, pairs_file, landmarks_file = (_find(root, ending) for ending in (_FACES, _PAIRS, _LANDMARKS))
    names, faces = _table(faces_file, 3, np.int64, named=True)
    landmark_names, landmarks = _table(landmarks_file, _SCORE + 1, np.float64, named=True)
    if [Path(name).name for name in names] != [Path(name).name for name in landmark_names]:
        raise UserError(
            f"`{faces_file}` and `{landmarks_file}` must name the same images in the same order, but do not; copy both"
            " again"
        )
    if not np.isfinite(landmarks).all():
        raise UserError(f"`{landmarks_file}` must hold finite numbers, but does not; copy it again")
    ids, template = np.unique(faces[:, 0], return_inverse=True)
    return TemplateSet(
        name=pairs_file.name.removesuffix(_PAIRS),
        files=tuple(root / CROPS / name for name in names),
        points=landmarks[:, : _SCORE - 1].reshape(-1, 5, 2),
        scores=landmarks[:, _SCORE - 1],
        template=template.astype(np.int64),
        medium=faces[:, 1],
        num_templates=len(ids),
        pairs=_read_pairs(pairs_file, ids),
    )


def aligned_crop(encoded: Path | bytes, points: NDArray[np.float64]) -> Images:
    """Return an image as a crop uint8 RGB [112, 112, 3] with its landmarks [5, 2] at `TEMPLATE_POINTS`.

    What the image does not cover is black.

    Raises:
        UndecodableError: the image does not decode, or the landmarks are those of no face.
    """
    image = Image.fromarray(decode_image(encoded, image_size=None))
    forward = np.vstack([similarity(points, TEMPLATE_POINTS), [0, 0, 1]])
    if not np.isfinite(forward).all() or abs(np.linalg.det(forward)) < 1e-12:
        raise UndecodableError("its landmarks are those of no face")
    # Pillow asks where in the image each pixel of the crop comes from, and counts from the corner of a pixel.
    matrix = np.linalg.inv(forward)[:2]
    matrix[:, 2] += 0.5 - matrix[:, :2] @ np.array([0.5, 0.5])
    size = (TEMPLATE_SIZE, TEMPLATE_SIZE)
    crop = image.transform(size, Image.Transform.AFFINE, tuple(matrix.reshape(-1)), Image.Resampling.BILINEAR)
    return np.asarray(crop, dtype=np.uint8)


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the [2, 3] matrix of the rotation, scale and shift that bring `source` [n, 2] closest to `target` [n, 2].

    Least squares without reflection (Umeyama, 1991), in the plane: the points are complex numbers z, and w = a z + b.
    Points that all coincide give NaN.
    """
    z, w = (points @ np.array([1, 1j]) for points in (source, target))
    around, spread = z - z.mean(), float(np.square(np.abs(z - z.mean())).sum())
    a = np.vdot(around, w - w.mean()) / spread if spread > 0 else complex(np.nan, np.nan)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _read_pairs(path: Path, ids: Indices) -> Pairs:
    _, table = _table(path, 3, np.int64, named=False)
    if not np.isin(table[:, 2], (0, 1)).all() or len(np.unique(table[:, 2])) < 2:
        raise UserError(f"the last field of each line of `{path}` must be 1 or 0, and both must occur; copy it again")
    places = [np.searchsorted(ids, table[:, column]).clip(max=len(ids) - 1) for column in (0, 1)]
    for column, place in enumerate(places):
        unknown = ids[place] != table[:, column]
        if unknown.any():
            raise UserError(
                f"`{path}` must compare templates that have images, but template"
                f" {table[int(np.argmax(unknown)), column]} has none; copy the text files again"
            )
    return Pairs(left=places[0], right=places[1], same=table[:, 2] == 1)


def _find(root: Path, ending: str) -> Path:
    found = [path for folder in (root / "meta", root) for path in sorted(folder.glob(f"*{ending}"))]
    if len(found) != 1:
        raise UserError(
            f"`{root}` must hold one file `*{ending}`, in itself or in `meta`, but holds {len(found)}; give the folder"
            " of IJB-B or of IJB-C"
        )
    return found[0]


def _table(path: Path, num_columns: int, kind: Any, *, named: bool) -> tuple[list[str], NDArray[Any]]:
    """Return the names in the first column, where there are any, and the numbers of the others."""
    names: list[str] = []

    def numbers() -> Iterator[str]:
        with path.open(encoding="utf-8") as file:
            for line in file:
                fields = line.split(maxsplit=1)
                if len(fields) == 2:
                    names.append(fields[0])
                yield fields[-1] if fields else ""

    expected = num_columns - named
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of empty files
            lines: Any = numbers() if named else path
            table = np.loadtxt(lines, dtype=kind, comments=None, ndmin=2, encoding="utf-8")
        if table.shape == (len(names) or len(table), expected):
            return names, table
        reason = f"it has {table.shape[1] + named} fields"
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, Warning) as error:
        reason = str(error).partition("\n")[0].partition(";")[0].rstrip(".")
    raise UserError(f"every line of `{path}` must hold {num_columns} fields, but {reason}; copy the file again")
