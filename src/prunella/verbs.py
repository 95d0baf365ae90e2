"""The verbs: one table behind the command line and the steps of a recipe.

Modules are named, not imported, so that `--help` and the torch-free verbs start at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from prunella import settings as s
from prunella.errors import InputError
from prunella.quiet import hush
from prunella.together import main_only


@dataclass(frozen=True)
class Verb:
    """A stage by name: its settings, and where its function lives."""

    name: str
    settings: type[s.Settings]
    module: str
    trains: bool

    def run(self, settings: Any) -> Any:
        """Runs the stage: on every process if it trains a model, else on the first alone.

        Returns:
            Its result; None on processes that had nothing to do.
        """
        if self.name in _ON_EVERY_PROCESS:
            return self.function()(settings)
        return main_only(lambda: self.function()(settings))

    def function(self) -> Callable[[Any], Any]:
        """The stage's function.

        Raises:
            InputError: If the installation lacks what training needs.
        """
        try:
            if self.trains:
                hush()
            return getattr(import_module(self.module), self.name.replace("-", "_"))
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("prunella") or not self.trains:
                raise
            raise InputError(
                f"`prunella {self.name}` needs the package '{error.name}', which the base "
                'installation leaves out; install "prunella[train]"'
            ) from None


# The verbs whose work several processes share; torchrun starts the others on each as well.
_ON_EVERY_PROCESS = {"teach", "prune", "adapt", "transfer", "mask", "quantize"}

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("teach", s.TeachSettings, "prunella.stages.teach", True),
        Verb("prune", s.PruneSettings, "prunella.stages.prune", True),
        Verb("adapt", s.AdaptSettings, "prunella.stages.adapt", True),
        Verb("transfer", s.TransferSettings, "prunella.stages.transfer", True),
        Verb("mask", s.MaskSettings, "prunella.stages.mask", True),
        Verb("apply-mask", s.ApplyMaskSettings, "prunella.mask_application", False),
        Verb("quantize", s.QuantizeSettings, "prunella.stages.quantize", True),
        Verb("evaluate", s.EvaluateSettings, "prunella.stages.evaluate", True),
        Verb("pack", s.PackSettings, "prunella.packing", False),
        Verb("unpack", s.UnpackSettings, "prunella.packing", False),
        Verb("inspect", s.InspectSettings, "prunella.inspection", False),
        Verb("study", s.StudySettings, "prunella.study.run", False),
        Verb("predict", s.PredictSettings, "prunella.predicting", False),
        Verb("export", s.ExportSettings, "prunella.exporting", True),
        Verb("bench", s.BenchSettings, "prunella.bench.run", False),
    )
}
