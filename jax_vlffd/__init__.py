"""Visual-linguistic face forgery detection in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_vlffd.inference.detector import Detector, Prediction

__all__ = ["Detector", "Prediction"]


def __getattr__(name: str) -> Any:
    """Loads the detector, and JAX with it, when it is first asked for (PEP 562)."""
    if name in __all__:
        from jax_vlffd.inference import detector

        return getattr(detector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
