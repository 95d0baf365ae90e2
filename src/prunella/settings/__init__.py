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
    EvaluateSettings,
    FineTuneSettings,
    InspectSettings,
    PackSettings,
    PruneSettings,
    QuantizeSettings,
    TaskSettings,
    TeachSettings,
    TransferSettings,
    UnpackSettings,
)

__all__ = [
    "DistillationSettings",
    "EvaluateSettings",
    "FineTuneSettings",
    "InspectSettings",
    "OutputSettings",
    "PackSettings",
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
