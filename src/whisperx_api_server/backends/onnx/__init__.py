"""Speaker diarization on onnxruntime, with weights that ship in this package.

pyannote's segmentation-3.0 finds who speaks in each frame of 10 s windows, CAM++ turns each voice
of a window into a vector, and clustering joins the voices of all windows. Needs neither torch, a
token nor a download.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..base import (
    Declaration,
    Diarizer,
    ModelSpec,
    Stage,
)
from ..vendors import require

DECLARATIONS: Mapping[Stage, Declaration] = {
    "diarization": Declaration(
        packages=("onnxruntime", "scipy"),
        extra="embedded",
        only_model="segmentation-3.0-campplus",
    ),
}


def import_vendors(_stage: Stage, _spec: ModelSpec) -> None:
    for module in ("onnxruntime", "scipy.cluster.hierarchy", "scipy.optimize"):
        require(module, extra="embedded")


def load_diarizer(spec: ModelSpec) -> Diarizer:
    """Load the diarizer; see `diarizer.load_diarizer`."""
    from . import diarizer

    return diarizer.load_diarizer(spec)
