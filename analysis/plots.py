"""Every figure a report holds, by one import. Each function takes results and returns a Figure; none writes a file."""

from .plots_common import LABEL, garwood, styled, to_svg
from .plots_events import (
    CutflowStep,
    FeatureOverlay,
    Overlay,
    TrainingCurve,
    cutflow_rows,
    plot_cutflow,
    plot_features,
    plot_scores,
    plot_training,
    score_edges,
)
from .plots_hunt import (
    GlobalP,
    ScanCurve,
    Spectrum,
    WindowRow,
    plot_delta_sys,
    plot_scan,
    plot_spectra,
    window_columns,
    window_table,
)
from .plots_metrics import EfficiencyCurve, SculptedShape, plot_roc, plot_sculpting, plot_sic
from .plots_trigger import EfficiencyLine, RateLine, plot_firmware, plot_rates

__all__ = [
    "LABEL",
    "CutflowStep",
    "EfficiencyCurve",
    "EfficiencyLine",
    "FeatureOverlay",
    "GlobalP",
    "Overlay",
    "RateLine",
    "ScanCurve",
    "SculptedShape",
    "Spectrum",
    "TrainingCurve",
    "WindowRow",
    "cutflow_rows",
    "garwood",
    "plot_cutflow",
    "plot_delta_sys",
    "plot_features",
    "plot_firmware",
    "plot_rates",
    "plot_roc",
    "plot_scan",
    "plot_scores",
    "plot_sculpting",
    "plot_sic",
    "plot_spectra",
    "plot_training",
    "score_edges",
    "styled",
    "to_svg",
    "window_columns",
    "window_table",
]
