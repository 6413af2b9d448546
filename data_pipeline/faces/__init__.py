"""Faces: detection, landmarks, crops and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.faces.cropper import FaceCropper

__all__ = ["FaceCropper"]


def __getattr__(name: str) -> Any:
    """Loads the detector, and OpenCV with it, when it is first asked for (PEP 562)."""
    if name in __all__:
        from data_pipeline.faces import cropper

        return getattr(cropper, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
