"""Groups pictures by face identity, for identity-disjoint splits where names do not give it.

dlib's face recognition network (King 2017) gives each face 128 numbers; faces of one person lie
near each other. Pictures are joined in chains, so that a face that is near to any of a group belongs
to it: two people in one group cost little, one in two splits makes the test untrue.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.images import Image, read_image
from data_pipeline.faces.detection import DlibFaces
from jax_vlffd.errors import UserError

#: Faces nearer than this are taken for one person. King takes 0.6, which chains of strangers reach: on
#: 224 crops of FaceForensics++ it makes 46 groups, one of 52 crops; 0.5 makes 84, the largest of 6, and
#: 0.3 makes 88.
MAX_DISTANCE: Final = 0.5
#: Pictures above which all distances would take too long.
MAX_PICTURES: Final = 50_000
_DIMENSIONS: Final = 128
_BLOCK: Final = 256  # rows of distances at once


class FaceEmbedder:
    """Describes the largest face of a picture by dlib's network."""

    def __init__(self) -> None:
        """Loads the models; raises UserError when the extra `faces` is not installed."""
        self._faces = DlibFaces()
        import dlib

        spec = importlib.util.find_spec("face_recognition_models")
        assert spec is not None  # DlibFaces has its landmarks from there
        folder = Path(next(iter(spec.submodule_search_locations or ())))
        self._dlib: Any = dlib
        self._net: Any = dlib.face_recognition_model_v1(
            str(folder / "models" / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def embed(self, image: Image) -> NDArray[np.float32] | None:
        """The embedding float32 [128] of the largest face of uint8 [H, W, 3]; None where there is none."""
        faces = self._faces.detect(image)
        if not faces:
            return None
        points = [self._dlib.point(round(float(x)), round(float(y))) for x, y in faces[0].landmarks]
        box = self._dlib.rectangle(*(round(side) for side in faces[0].box))
        shape = self._dlib.full_object_detection(box, points)
        descriptor = self._net.compute_face_descriptor(np.ascontiguousarray(image), shape)
        return np.array(descriptor, np.float32)


def group_by_face(
    pictures: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[int], int]:
    """Groups pictures by the face that they show.

    Args:
      pictures: paths.
      progress: called with (pictures read, total).

    Returns:
      The group of each picture, and in how many pictures no face was found. Those are one group, because
      nothing tells who they show.

    Raises:
      UserError: no detector is installed, there are too many pictures, or one cannot be read.
    """
    if len(pictures) > MAX_PICTURES:
        raise UserError(
            f"{len(pictures)} pictures are too many to compare by their faces (at most {MAX_PICTURES}); "
            "state a `video` or a `split` in the lines"
        )
    net = FaceEmbedder()
    embeddings = np.full((len(pictures), _DIMENSIONS), np.nan, np.float32)
    for row, path in enumerate(pictures):
        image = read_image(path)
        if image is None:
            raise UserError(f"{path} is not a picture that can be read")
        embedding = net.embed(image)
        if embedding is not None:
            embeddings[row] = embedding
        progress(row + 1, len(pictures))
    return connected_groups(embeddings, MAX_DISTANCE), int(np.isnan(embeddings[:, 0]).sum())


def connected_groups(numbers: NDArray[np.float32], near: float) -> list[int]:
    """The group of each row [N, D]: rows nearer than `near`, directly or by others between them.

    Rows that are not numbers are one group. A group is called by its first row.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(numbers)
    group = np.arange(count)
    unknown = np.isnan(numbers).any(axis=1)
    group[unknown] = unknown.argmax() if count else 0
    squares = (numbers**2).sum(axis=1)
    for start in range(0, count, _BLOCK):
        block = numbers[start : start + _BLOCK]
        distances = squares[start : start + _BLOCK, None] + squares - 2 * block @ numbers.T
        rows, columns = np.nonzero(
            distances < near**2
        )  # comparisons with what is not a number are false
        # All pairs at once may not fit into memory, so a block is joined with what was found before it.
        edges = np.append(rows + start, np.arange(count)), np.append(columns, group)
        graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(count, count))
        _, first, part = np.unique(
            connected_components(graph, directed=False)[1], return_index=True, return_inverse=True
        )
        group = first[part]
    return [int(row) for row in group]
