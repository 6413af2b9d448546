"""Speed of the annotator on one core, compared with the same steps in plain scikit-image.

Both read the same pairs of JPEG files with landmarks stored beside them. The peer aligns, subtracts
a noise floor, and measures Lab, Laplacian, SSIM with Lucas-Kanade flow, GLCM and Sobel in each
region that differs, each by the library function of that name. Unlike ours it writes no captions and
hashes no files. CPU time is measured, so that other programs do not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("pairs", 48, "Pairs to annotate.", lower_bound=4)
flags.DEFINE_integer("size", 256, "Side of the pictures, in pixels.", lower_bound=64)
flags.DEFINE_integer("rounds", 5, "Rounds; the fastest of each side counts.", lower_bound=1)


def measure() -> dict[str, Any]:
    """Annotates drawn pairs with both; returns pairs per second and their ratio.

    Raises:
      UserError: scikit-image is not installed.
    """
    import contextlib
    import tempfile
    from importlib.metadata import version

    import cv2

    from data_pipeline.fftg.annotator import AnnotationTask, Annotator
    from jax_vlffd.errors import UserError

    try:
        import skimage  # noqa: F401
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError(
            f"the peer needs scikit-image and threadpoolctl ({error}); run: "
            "pip install scikit-image threadpoolctl"
        ) from error
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pairs = _draw_pairs(Path(folder))
        _peer(*pairs[0])  # loads the libraries whose threads are limited next
        # BLAS threads that wait for work use CPU time, most of all on an idle machine.
        stack.enter_context(threadpool_limits(1))
        annotator = Annotator(root=Path(folder))
        ours, peer = [], []
        lines: list[Any] = []
        # In turn, so that other load on the machine affects both.
        for _ in range(FLAGS.rounds):
            start = time.process_time()
            lines = [
                annotator.annotate(AnnotationTask(real.stem, real, fake)) for real, fake in pairs
            ]
            ours.append(time.process_time() - start)
            start = time.process_time()
            for real, fake in pairs[:: max(1, len(pairs) // 8)]:
                _peer(real, fake)
            peer.append((time.process_time() - start) / len(pairs[:: max(1, len(pairs) // 8)]))
    annotated = sum(bool(line and line["caption"]) for line in lines)
    rate, peer_rate = len(pairs) / min(ours), 1.0 / min(peer)
    return {
        "bench": "fftg",
        "size": FLAGS.size,
        "pairs": len(pairs),
        "annotated": annotated,
        "pairs_per_second": round(rate, 1),
        "peer": f"scikit-image {version('scikit-image')}",
        "peer_pairs_per_second": round(peer_rate, 2),
        "ratio": round(rate / peer_rate, 1),
    }


def _draw_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Drawn faces with one region forged, as JPEG, and their landmarks beside them."""
    import numpy as np

    from data_pipeline.faces.regions import region_maps
    from data_pipeline.synthetic import forgeries
    from data_pipeline.synthetic.anatomy import draw_identity
    from data_pipeline.synthetic.faces import draw_face
    from jax_vlffd.vocabulary import REGIONS, TYPES

    rng = np.random.default_rng(0)
    pairs = []
    for number in range(FLAGS.pairs):
        image, landmarks = draw_face(draw_identity(rng), rng, FLAGS.size)
        region = region_maps(landmarks, FLAGS.size, FLAGS.size)[REGIONS[number % len(REGIONS)]]
        fake = forgeries.plant(image, region, TYPES[number % len(TYPES)], 0.7, rng)
        paths = folder / f"{number}_real.jpg", folder / f"{number}_fake.jpg"
        for path, picture in zip(paths, (image, fake), strict=True):
            path.write_bytes(forgeries.encode_jpeg(picture, 92))
        np.save(paths[0].with_suffix(".npy"), landmarks)
        pairs.append(paths)
    return pairs


def _peer(real_path: Path, fake_path: Path) -> dict[str, dict[str, float]]:
    """The steps of the annotator with scikit-image's functions."""
    import numpy as np
    from skimage import (
        color,
        draw,
        feature,
        filters,
        io,
        metrics,
        morphology,
        registration,
        segmentation,
        transform,
        util,
    )

    real, fake = io.imread(real_path), io.imread(fake_path)
    points = np.load(real_path.with_suffix(".npy"))
    height, width = real.shape[:2]
    regions = {}
    for name, polygons in _OUTLINES.items():
        regions[name] = np.zeros((height, width), bool)
        for chosen in polygons:
            filled = draw.polygon2mask((height, width), points[list(chosen)][:, ::-1])
            regions[name] |= morphology.convex_hull_image(filled)
    outside = ~morphology.dilation(regions["face"], morphology.disk(7))
    # Alignment: the shift, undone where there is one.
    grays = color.rgb2gray(real), color.rgb2gray(fake)
    shift, _, _ = registration.phase_cross_correlation(*grays, upsample_factor=10)
    if np.abs(shift).max() > 0.1:
        move = transform.EuclideanTransform(translation=-shift[::-1])
        fake = util.img_as_ubyte(transform.warp(fake, move, order=3, mode="edge"))
        grays = grays[0], color.rgb2gray(fake)
    # Mask: the difference less a noise floor that follows detail.
    difference = filters.gaussian(np.abs(real.astype(float) - fake).max(axis=2), 2)
    detail = np.abs(real - filters.gaussian(real, 1, channel_axis=2, preserve_range=True)).max(2)
    detail = filters.gaussian(detail, 2)
    noise = np.median(difference[outside])
    slope = np.median((difference[outside] - noise) / np.maximum(detail[outside], 1))
    mask = np.clip(difference - 2 * (noise + max(slope, 0.1) * detail), 0, None) / 255
    results = {}
    for name, region in regions.items():
        if mask[region].mean() < 0.001:
            continue
        labs = color.rgb2lab(real)[region], color.rgb2lab(fake)[region]
        laplacians = [np.abs(filters.laplace(filters.gaussian(gray, 1)))[region] for gray in grays]
        bands = [filters.difference_of_gaussians(gray, 2, 6) for gray in grays]
        _, similarity = metrics.structural_similarity(
            *bands, data_range=1.0, gaussian_weights=True, full=True
        )
        flow = registration.optical_flow_ilk(*bands, radius=4, num_warp=1)
        contrasts = []
        for gray in grays:
            high = 127 + 255 * (gray - filters.gaussian(gray, 3))
            levels = np.where(region, np.clip(high, 1, 255), 0).astype(np.uint8)
            matrix = feature.graycomatrix(levels, [1], [0, np.pi / 2], levels=256)
            matrix[0], matrix[:, 0] = 0, 0
            contrasts.append(feature.graycoprops(matrix, "contrast").mean())
        edge = segmentation.find_boundaries(morphology.closing(mask > 0.006, morphology.disk(5)))
        slopes = [filters.sobel(filters.gaussian(gray, 1)) for gray in grays]
        results[name] = {
            "color": float(np.linalg.norm(labs[0].mean(axis=0) - labs[1].mean(axis=0))),
            "blur": float(laplacians[0].mean() / np.maximum(laplacians[1].mean(), 1e-9)),
            "structure": float((1.0 - similarity[region]).mean() * np.abs(flow[:, region]).mean()),
            "texture": float(contrasts[1] / max(contrasts[0], 1e-9)),
            "boundary": float((slopes[1] - slopes[0])[edge].sum()),
        }
    return results


#: Landmarks whose hulls are the regions.
_OUTLINES: Final[dict[str, list[Sequence[int]]]] = {
    "mouth": [range(48, 60)],
    "nose": [range(27, 36)],
    "eyes": [[*range(17, 22), *range(36, 42)], [*range(22, 27), *range(42, 48)]],
    "face": [range(27)],
}
