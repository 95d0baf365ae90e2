"""Typed settings of the stages. Nothing heavy is imported here."""

from prunella.settings.base import (
    DistillationSettings,
    OutputSettings,
    PruningSettings,
    Settings,
    TextSettings,
    TrainingSettings,
)
from prunella.settings.stages import (
    BenchSettings,
    EvaluateSettings,
    ExportSettings,
    FineTuneSettings,
    InspectSettings,
    PackSettings,
    PredictSettings,
    PruneSettings,
    QuantizeSettings,
    TaskSettings,
    TeachSettings,
    TransferSettings,
    UnpackSettings,
)

__all__ = [
    "BenchSettings",
    "DistillationSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FineTuneSettings",
    "InspectSettings",
    "OutputSettings",
    "PackSettings",
    "PredictSettings",
    "PruneSettings",
    "PruningSettings",
    "QuantizeSettings",
    "Settings",
    "TaskSettings",
    "TeachSettings",
    "TextSettings",
    "TrainingSettings",
    "TransferSettings",
    "UnpackSettings",
]
