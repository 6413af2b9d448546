"""Every threshold of the annotator, in one place."""

from __future__ import annotations

from typing import Final

from pydantic import NonNegativeFloat

from jax_vlffd.settings import settings


@settings("thresholds.")
class Settings:
    """Thresholds of the raw annotation; docs/fftg.md says how each number was found.

    Lengths are shares of the face's size (`regions.face_size`), unless pixels are named;
    differences are gray levels of 255.

    Attributes:
      smallest_face: faces below this size, in pixels, are refused.
      largest_face: larger faces are reduced to this size, in pixels, before anything is measured.
      least_agreement: share of the picture that must be the same outside the face, or it is not a
      pair.
      largest_shift: a larger misalignment is refused; a smaller one is undone.
      largest_crop: share of a side by which the sizes of the two images may differ.
      noise_margin: how many times the measured noise is the noise floor of the mask.
      least_noise: least noise of a plain pixel.
      largest_noise: most noise of a plain pixel that is believed.
      least_noise_slope: least noise per level of detail.
      largest_noise_slope: most noise per level of detail that is believed.
      largest_motion: how much noisier than its surroundings a face may be through motion.
      forged: a region is forged when the mean of the mask in it exceeds this, in gray levels, ...
      forged_noisy: ... or this where the pair is noisy, ...
      quiet: ... on a straight line between the two from this noise (root of `a * b`) ...
      noisy: ... to this.
      fringe: a region with less than this share of the strongest region's mean is its fringe.
      forged_given: the same for a mask that came with the data set, whose mean is a share of area.
      color: threshold of the type, in units of CIE Lab.
      blur: threshold, in octaves of the Laplacian's response.
      structure: threshold, 1 - correlation.
      texture: threshold, in octaves of GLCM contrast.
      boundary: threshold, in gray levels a pixel.
    """

    smallest_face: NonNegativeFloat = 24.0
    largest_face: NonNegativeFloat = 224.0
    least_agreement: NonNegativeFloat = 0.5
    largest_shift: NonNegativeFloat = 0.06
    largest_crop: NonNegativeFloat = 0.06
    noise_margin: NonNegativeFloat = 2.0
    least_noise: NonNegativeFloat = 0.75
    largest_noise: NonNegativeFloat = 10.0
    least_noise_slope: NonNegativeFloat = 0.1
    largest_noise_slope: NonNegativeFloat = 4.0
    largest_motion: NonNegativeFloat = 2.0
    forged: NonNegativeFloat = 0.35
    forged_noisy: NonNegativeFloat = 1.3
    quiet: NonNegativeFloat = 1.1
    noisy: NonNegativeFloat = 1.75
    fringe: NonNegativeFloat = 0.08
    forged_given: NonNegativeFloat = 0.1
    color: NonNegativeFloat = 4.4
    blur: NonNegativeFloat = 0.22
    structure: NonNegativeFloat = 0.031
    texture: NonNegativeFloat = 0.66
    boundary: NonNegativeFloat = 2.9

    def threshold(self, kind: str) -> float:
        """The threshold of a forgery type of the vocabulary."""
        return float(getattr(self, kind))


DEFAULT: Final = Settings()
