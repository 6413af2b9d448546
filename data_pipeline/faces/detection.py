"""Faces: detection, landmarks and aligned crops, behind one small interface.

Landmarks follow the 68-point scheme of iBUG 300-W (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes,
48-67 mouth); 81 points are the same with 13 more along the forehead (68-80). dlib is the default
detector (extra `faces`); its landmark model was trained on iBUG 300-W, whose terms exclude
commercial use.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from jax_vlffd.errors import UserError
from jax_vlffd.preprocessing import FaceGeometry, Placement, face_geometry

Image = NDArray[np.uint8]
Points = NDArray[np.float32]

#: Longest side that dlib searches at twice its size; a larger picture is searched as it is.
_UPSAMPLED_SIDE: Final = 800
#: Pixels of the shorter side below which a picture is not searched: dlib sees faces from 40 pixels on.
_SEARCHED_SIDE: Final = 20
#: dlib's score (0 is its own threshold) of a doubtful face, and the share of the picture's shorter
#: side that such a one must fill.
_DOUBTFUL: Final = -0.5
_FILLS: Final = 0.4
#: A file of landmarks is a kilobyte or two; a larger one is something else.
_LARGEST_FILE: Final = 1 << 16
#: The 112 px template of ArcFace (Deng et al. 2019): eyes, nose tip, corners of the mouth.
_ARCFACE: Final = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    np.float64,
)
#: Which of the 68 points DeepfakeBench lays on that template (upper lids, tip, lips): kept as it
#: has them, so that crops equal those of published numbers.
_FIVE_OF_68: Final = (37, 44, 30, 49, 55)
#: Points of MediaPipe's face mesh that stand for the 68 of iBUG.
_MESH_68: Final = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)


@dataclass(frozen=True)
class Face:
    """One face of an image.

    Attributes:
      box: left, top, right, bottom in pixels; may reach outside the image.
      landmarks: float32 [68, 2] or [81, 2], x and y in pixels.
      confidence: the detector's own score, higher is surer; comparable within one detector only.
    """

    box: tuple[float, float, float, float]
    landmarks: Points
    confidence: float

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class Finder(Protocol):
    """Finds the faces of an image: what a detector of faces has to do."""

    def find(self, image: Image, unsure: bool = False) -> list[Face]:
        """Returns the faces of `image` (uint8 [H, W, 3], RGB), largest first; maybe none.

        With `unsure`, what would else be too doubtful counts where it fills the picture as a face
        fills its crop: for those who know that there is one.
        """
        ...


class DlibFaces:
    """dlib's HOG detector and its 68-point shape model.

    A picture without a face is searched again with a margin around it (faces that fill a crop) and
    then brightened (dark faces, which the detector misses more often).
    """

    def __init__(self) -> None:
        """Loads the models; raises UserError when the extra `faces` is not installed."""
        spec = importlib.util.find_spec("face_recognition_models")
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if not folders or importlib.util.find_spec("dlib") is None:
            raise UserError(
                "the dlib face detector is not installed; run: pip install 'jax-vlffd[faces]'"
            )
        import dlib

        # Found by its path: importing face_recognition_models would need pkg_resources.
        model = Path(folders[0]) / "models" / "shape_predictor_68_face_landmarks.dat"
        self._detector: Any = dlib.get_frontal_face_detector()
        self._predictor: Any = dlib.shape_predictor(str(model))

    def find(self, image: Image, unsure: bool = False) -> list[Face]:
        """See `Finder.find`."""
        if (
            min(image.shape[:2]) < _SEARCHED_SIDE
        ):  # a strip with its margin would be a large picture
            return []
        margin = max(image.shape[:2]) // 4
        faces = self._find(image, 0) or self._find(image, margin) or self._find(_brighten(image), 0)
        if faces or not unsure:
            return faces
        guesses = [
            face
            for picture in (image, _brighten(image))
            for face in self._find(picture, margin, _DOUBTFUL)
            if face.size > _FILLS * min(image.shape[:2])
        ]
        return [max(guesses, key=lambda face: face.confidence)] if guesses else []

    def _find(self, image: Image, pad: int, least: float = 0.0) -> list[Face]:
        if pad:
            image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE).astype(
                np.uint8
            )
        image = np.ascontiguousarray(image)
        boxes, scores, _ = self._detector.run(
            image, int(max(image.shape[:2]) <= _UPSAMPLED_SIDE), least
        )
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            parts = self._predictor(image, box).parts()
            points = np.array([(part.x, part.y) for part in parts], np.float32) - pad
            corners = (box.left() - pad, box.top() - pad, box.right() - pad, box.bottom() - pad)
            faces.append(Face(corners, points, float(score)))
        return sorted(faces, key=lambda face: -face.size)


def _brighten(image: Image) -> Image:
    table = np.round(255.0 * (np.arange(256) / 255.0) ** 0.4).astype(np.uint8)
    return cv2.LUT(image, table).astype(np.uint8)


class MediapipeFaces:
    """MediaPipe's face mesh, for those who have a version that ships models (0.10.21 or older)."""

    def __init__(self) -> None:
        """Loads the mesh; raises UserError when MediaPipe is missing or ships no models."""
        if importlib.util.find_spec("mediapipe") is None:
            raise UserError("mediapipe is not installed; run: pip install 'mediapipe<=0.10.21'")
        import mediapipe

        if not hasattr(mediapipe, "solutions"):
            raise UserError("this mediapipe ships no face mesh; install 'mediapipe<=0.10.21'")
        self._mesh: Any = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=16, min_detection_confidence=0.5
        )

    def find(self, image: Image, unsure: bool = False) -> list[Face]:
        """See `Finder.find`; the mesh gives no score, so the confidence is 1."""
        found = self._mesh.process(np.ascontiguousarray(image)).multi_face_landmarks or ()
        scale = np.array([image.shape[1], image.shape[0]], np.float32)
        faces = []
        for mesh in found:
            marks = [mesh.landmark[i] for i in _MESH_68]
            points = np.array([(mark.x, mark.y) for mark in marks], np.float32) * scale
            faces.append(Face(box_of(points), points, 1.0))
        return sorted(faces, key=lambda face: -face.size)


def open_finder(name: str) -> Finder:
    """The finder called `name`: 'dlib' or 'mediapipe'. Raises UserError when it cannot be had."""
    if name == "dlib":
        return DlibFaces()
    if name == "mediapipe":
        return MediapipeFaces()
    raise UserError(f"unknown face detector '{name}': use dlib or mediapipe")


def box_of(landmarks: Points) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) around `landmarks` ([N, 2])."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def face_box(face: Face, height: int, width: int, margin: float) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of a face with a margin, within the image.

    Args:
      face: as found.
      height: of the image.
      width: of the image.
      margin: share of the face's size to add on each side.
    """
    low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
    spare = margin * float(np.max(high - low))
    left, top = np.clip(np.floor(low - spare), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(high + spare), [left + 1, top + 1], [width, height]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def landmark_paths(image_path: Path) -> tuple[Path, Path]:
    """Where landmarks of an image may lie: beside it, or in the folder `landmarks` for `frames`.

    The second is DeepfakeBench's layout: the last folder called `frames` on the path is swapped.
    """
    # The root of all folders, which a table may name too, has no name.
    beside = image_path.with_suffix(".npy") if image_path.name else image_path / ".npy"
    parts = list(beside.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "frames":
            parts[i] = "landmarks"
            break
    return beside, Path(*parts)


def stored_landmarks(image_path: Path) -> Points | None:
    """Landmarks stored with an image, float32 [68 or 81, 2], or None where there are none.

    Raises:
      UserError: a file is there and is no finite array of 68 or 81 points.
    """
    for path in landmark_paths(image_path):
        if path.is_file():
            return _read_points(path)
    return None


def _read_points(path: Path) -> Points:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large for 81 points")
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: landmarks cannot be read ({reason}); remove the file") from error
    shape, kind = getattr(points, "shape", "an archive"), getattr(points, "dtype", np.dtype(object))
    if shape not in {(68, 2), (81, 2)} or kind.kind not in "fiu":
        raise UserError(f"{path}: landmarks must be [68, 2] or [81, 2] numbers, not {shape} {kind}")
    if not (np.abs(points) < 1e6).all():  # nor for NaN
        raise UserError(f"{path}: landmarks must be pixels; one is not finite or far off")
    return np.asarray(points, np.float32)


def align_crop(
    image: Image, landmarks: Points, size: int = 256, margin: float = 1.3
) -> tuple[Image, Points, NDArray[np.float64]]:
    """Crops a face, upright, to ArcFace's five-point template with a margin, as DeepfakeBench does.

    Args:
      image: uint8 [H, W, 3].
      landmarks: [68 or 81, 2].
      size: side of the square crop in pixels.
      margin: how much wider than the template the crop is; 1 is the template itself.

    Returns:
      The crop uint8 [size, size, 3] (black outside the image), the landmarks on the crop, and
      the 2x3 matrix that takes points of the image to the crop.
    """
    target = (_ARCFACE / 112.0 - 0.5) / margin + 0.5
    matrix = similarity(landmarks[list(_FIVE_OF_68)].astype(np.float64), target * size)
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    moved = landmarks.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return crop.astype(np.uint8), moved.astype(np.float32), matrix


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least-squares similarity [2, 3] from points `source` to `target` ([N, 2]).

    Umeyama's (1991) problem without reflection, solved in closed form.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    # As complex numbers a rotation with scale is one factor: target = factor * source.
    s = centred[:, 0] + 1j * centred[:, 1]
    t = (target - target_mean)[:, 0] + 1j * (target - target_mean)[:, 1]
    factor = np.vdot(s, t) / max(float(np.vdot(s, s).real), 1e-12)
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])


@dataclass(frozen=True)
class FaceCrop:
    """A face cut out of an image as the training's faces were.

    Attributes:
      image: uint8 [size, size, 3], its border continued outside the image; None where the face is too small.
      box: left, top, right, bottom of the face in the image, in pixels; None where the image is the crop.
      matrix: [2, 3], from points of the image to points of the crop.
      confidence: see `Face`.
      geometry: how the face lies in the crop, `pixels` being those of the image; None where the image is one.
    """

    image: Image | None
    box: tuple[float, float, float, float] | None
    matrix: NDArray[np.float64]
    confidence: float
    geometry: FaceGeometry | None = None


class FaceFinder:
    """Finds the faces of an image and crops them.

    Args:
      detector: 'dlib', 'mediapipe', or a `Finder`.
      size: side of a crop in pixels.
      margin: how much wider than ArcFace's template a crop is, as `launch.prepare` crops. By default crops have
        their faces where the detector's training had them (`fitted`), and 1.3 where that is not known.
      align: turned upright; False crops the same square without rotation. By default as in training.
      smallest: a face whose longer side has fewer pixels is not cropped: enlarged, it would show the
        resampling and nothing else.
      most: faces of one image that are looked at, the largest.

    Raises:
      UserError: the detector is not installed.
    """

    def __init__(
        self,
        detector: str | Finder = "dlib",
        size: int = 256,
        margin: float | None = None,
        align: bool | None = None,
        smallest: int = 40,
        most: int = 32,
    ):
        self._finder = open_finder(detector) if isinstance(detector, str) else detector
        self._size, self._margin, self._align = size, margin, align
        self._smallest, self._most = smallest, most
        self.placement: Placement | None = None

    def fitted(self, placement: Placement | None) -> FaceFinder:
        """The same for a detector whose training had its faces so; unchanged where a margin was given."""
        found = copy.copy(self)
        found.placement = placement if self._margin is None else None
        return found

    def find(self, image: Image) -> list[Face]:
        """The faces of uint8 [H, W, 3], RGB, largest first."""
        from data_pipeline.faces.cropper import find_faces  # it needs this module

        return find_faces(self._finder, image)

    def crops(self, image: Image) -> Sequence[FaceCrop]:
        """The faces of uint8 [H, W, 3], RGB, cropped, largest first."""
        from data_pipeline.faces.cropper import CropSettings, crop, crop_matrix, move, placed_matrix

        size, found = self._size, []
        for face in self.find(image)[: self._most]:
            if self.placement is None:
                settings = CropSettings(size, self._margin or 1.3, self._align is not False)
                matrix = crop_matrix(image, face.landmarks, settings)
            else:
                matrix = placed_matrix(image, face.landmarks, size, self.placement, self._align)
            # Continued: no picture of a training has black there, and what is new to a detector counts.
            large = face.size >= self._smallest
            cut = crop(image, matrix, size, cv2.BORDER_REPLICATE) if large else None
            native = face_geometry(face.landmarks, *image.shape[:2]).pixels
            lies = face_geometry(move(face.landmarks, matrix), size, size)._replace(pixels=native)
            found.append(FaceCrop(cut, face.box, matrix, face.confidence, lies))
        return found
