"""All that a stage imports, imported once by the server that test processes are forked from."""

import accelerate
import datasets
import sklearn.metrics
import transformers.models.bert.modeling_bert

import prunella.stages.prune
import prunella.stages.quantize
import prunella.stages.teach
import prunella.stages.transfer

__all__ = ["accelerate", "datasets", "prunella", "sklearn", "transformers"]
