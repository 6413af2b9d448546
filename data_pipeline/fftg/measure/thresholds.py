"""The annotator's settings: every threshold, in one place."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from pydantic import NonNegativeFloat

from jax_vlffd.settings import settings

#: Field names of the first release. They are hashed into the keys of annotation lines and of paid replies, so
#: other names would annotate and ask for everything again.
_KEY_NAMES: Final = {
    "min_face_size": "smallest_face", "max_face_size": "largest_face", "min_agreement": "least_agreement",
    "max_shift": "largest_shift", "max_crop": "largest_crop", "min_noise": "least_noise",
    "max_noise": "largest_noise", "min_noise_slope": "least_noise_slope",
    "max_noise_slope": "largest_noise_slope", "max_motion": "largest_motion",
    "forged_dataset_mask": "forged_given",
}  # fmt: skip


@settings("thresholds.")
class AnnotatorSettings:
    """Thresholds of the raw annotation; docs/fftg.md says how each was chosen. All values are ours.

    Lengths are fractions of the face's size (`regions.face_size`) unless pixels are named;
    differences are gray levels, 0 to 255.

    Attributes:
      min_face_size: smaller faces, in pixels, are refused.
      max_face_size: larger faces are reduced to this size, in pixels, before anything is measured.
      min_agreement: fraction of the pixels outside the face that must be equal in a pair.
      max_shift: a larger misalignment is refused; a smaller one is undone.
      max_crop: fraction of a side by which the sizes of the two images may differ.
      noise_margin: the mask's noise floor as a multiple of the measured noise.
      min_noise: lower bound of the noise of a pixel without detail.
      max_noise: upper bound of the same.
      min_noise_slope: lower bound of the noise per gray level of detail.
      max_noise_slope: upper bound of the same.
      max_motion: upper bound of the factor by which motion makes a face noisier than its surroundings.
      forged: mean of the mask, in gray levels, above which a region is forged in a pair with little noise.
      forged_noisy: the same in a noisy pair; the threshold is interpolated between the two.
      quiet: noise (`sqrt(a * b)`) up to which `forged` holds.
      noisy: noise from which `forged_noisy` holds.
      fringe: a region with less than this fraction of the largest region mean is not called forged.
      forged_dataset_mask: fraction of a region's area above which it is forged by a data set's own mask.
      color: threshold of the type, in units of CIE Lab; `type_thresholds` takes multiples of this and the
        following.
      blur: threshold, in octaves of the Laplacian's response.
      structure: threshold, 1 - correlation.
      texture: threshold, in octaves of GLCM contrast.
      boundary: threshold, in gray levels a pixel.
    """

    min_face_size: NonNegativeFloat = 24.0
    max_face_size: NonNegativeFloat = 224.0
    min_agreement: NonNegativeFloat = 0.5
    max_shift: NonNegativeFloat = 0.06
    max_crop: NonNegativeFloat = 0.06
    noise_margin: NonNegativeFloat = 2.0
    min_noise: NonNegativeFloat = 0.75
    max_noise: NonNegativeFloat = 10.0
    min_noise_slope: NonNegativeFloat = 0.1
    max_noise_slope: NonNegativeFloat = 4.0
    max_motion: NonNegativeFloat = 2.0
    forged: NonNegativeFloat = 0.35
    forged_noisy: NonNegativeFloat = 1.3
    quiet: NonNegativeFloat = 1.1
    noisy: NonNegativeFloat = 1.75
    fringe: NonNegativeFloat = 0.08
    forged_dataset_mask: NonNegativeFloat = 0.1
    color: NonNegativeFloat = 4.4
    blur: NonNegativeFloat = 0.22
    structure: NonNegativeFloat = 0.031
    texture: NonNegativeFloat = 0.66
    boundary: NonNegativeFloat = 2.9

    def threshold(self, kind: str) -> float:
        """The threshold of a forgery type of the vocabulary."""
        return float(getattr(self, kind))

    def for_key(self) -> dict[str, float]:
        """The values under the names that content keys are made of."""
        return {_KEY_NAMES.get(name, name): value for name, value in asdict(self).items()}


DEFAULT: Final = AnnotatorSettings()
