"""Data set adapters: each reads one official layout and returns `Video` records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from data_pipeline.datasets import (
    celeb_df,
    deepfakebench,
    df40,
    dfd,
    dfdc,
    faceforensics,
    ffiw,
    folder,
    uadfv,
    wild_deepfake,
)
from data_pipeline.datasets.base import Collection, Video

__all__ = ["COMPRESSED", "PLAIN", "Collection", "Video"]

#: Sets that exist in several compressions: name -> adapter of (root, compression).
COMPRESSED: Final[dict[str, Callable[[Path, str], Collection]]] = {
    "faceforensics": faceforensics.scan,
    "dfd": dfd.scan,
    "deepfakebench": deepfakebench.scan,
}
#: The others: name -> adapter of the root.
PLAIN: Final[dict[str, Callable[[Path], Collection]]] = {
    "celeb_df_v1": lambda root: celeb_df.scan(root, celeb_df.V1),
    "celeb_df_v2": lambda root: celeb_df.scan(root, celeb_df.V2),
    "celeb_df_pp": lambda root: celeb_df.scan(root, celeb_df.PLUS_PLUS),
    "dfdc": dfdc.scan,
    "dfdc_preview": dfdc.scan_preview,
    "wild_deepfake": wild_deepfake.scan,
    "ffiw": ffiw.scan,
    "uadfv": uadfv.scan,
    "df40": df40.scan,
    "folder": folder.scan,
}
