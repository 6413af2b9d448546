"""The geometry of crops, and how frames lie on each other."""

from __future__ import annotations

import cv2
import numpy as np

from data_pipeline.faces.alignment import CropSettings, crop_matrix, move
from data_pipeline.faces.frame_registration import onto_real
from tests.support.preparing import SIZE
from tests.support.video_trees import landmarks, scene


def test_crops_without_rotation_keep_center_and_scale() -> None:
    turn = cv2.getRotationMatrix2D((116, 86), 30, 1.0)
    points = move(landmarks((80, 50, 152, 122)), turn)
    upright = crop_matrix(points, CropSettings(SIZE))
    flat = crop_matrix(points, CropSettings(SIZE, align=False))
    assert flat[0, 1] == flat[1, 0] == 0
    assert abs(upright[0, 1]) > 0.1
    assert np.isclose(np.linalg.det(flat[:, :2]), np.linalg.det(upright[:, :2]))
    center = np.linalg.solve(flat[:, :2], SIZE / 2 - flat[:, 2])
    np.testing.assert_allclose(upright[:, :2] @ center + upright[:, 2], SIZE / 2, atol=1e-6)


def test_unlike_scenes_have_no_place_on_each_other() -> None:
    assert onto_real(scene(1, []), scene(2, [])) is None
    black = np.zeros((180, 240, 3), np.uint8)
    assert onto_real(black, black) is not None
    assert onto_real(black + 200, black) is None
    np.testing.assert_array_equal(onto_real(scene(1, []), scene(1, [])), [[1, 0, 0], [0, 1, 0]])


def test_a_cut_of_22_columns_is_reported_from_a_resize() -> None:
    real = cv2.resize(scene(1, [(80, 50, 72)]), (854, 480))
    cut = real[:, 11:843]
    np.testing.assert_array_equal(onto_real(cut, real), [[1, 0, 11], [0, 1, 0]])
    resized = onto_real(cv2.resize(real, (832, 480)), real)
    assert resized is not None
    np.testing.assert_allclose(resized, [[854 / 832, 0, 0], [0, 1, 0]])
