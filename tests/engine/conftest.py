"""Tiny models of every family and head, as checkpoints, packed, and ready to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine.reference import ReferenceRunner

from prunella.engine.model import Model
from prunella.packed.read import PackedFile, open_packed
from prunella.packing import pack
from prunella.settings import PackSettings

if TYPE_CHECKING:
    from transformers import BertTokenizer

FAMILIES = ("bert", "roberta", "distilbert", "electra")
HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@dataclass(frozen=True)
class Tiny:
    """A tiny model: the checkpoint's folder and the packed file."""

    folder: Path
    packed: PackedFile

    def model(self, **settings: Any) -> Model:
        """It, answering by the reference runner."""
        return Model(self.packed, ReferenceRunner(self.packed), **settings)

    def torch(self) -> Any:
        """It, as transformers loads it."""
        import transformers

        names = {
            "SequenceClassification": transformers.AutoModelForSequenceClassification,
            "TokenClassification": transformers.AutoModelForTokenClassification,
            "QuestionAnswering": transformers.AutoModelForQuestionAnswering,
            "MaskedLM": transformers.AutoModelForMaskedLM,
            "MultipleChoice": transformers.AutoModelForMultipleChoice,
        }
        _, _, head = self.model().card.architecture.partition("For")
        return names.get(head, transformers.AutoModel).from_pretrained(self.folder).eval()

    def tokenizer(self) -> Any:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        if not self.model().card.token_types:
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        return tokenizer


@pytest.fixture(scope="session")
def tiny(
    tiny_tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Tiny]:
    """Makes them: `tiny(family, head=None, weights="fp32", **config)`; one for the same arguments."""
    made: dict[Any, Tiny] = {}

    def make(
        family: str = "bert", head: str | None = None, *, weights: str = "fp32", **config: Any
    ) -> Tiny:
        key = (family, head, weights, repr(sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{head}")
            model = random_model(family, head, len(tiny_tokenizer), config)
            model.save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            out = folder / "model.prn"
            pack(
                PackSettings.model_validate(
                    {"model": str(folder), "out": str(out), "weights": weights}
                )
            )
            made[key] = Tiny(folder, open_packed(out))
        return made[key]

    return make


def random_model(family: str, head: str | None, vocabulary: int, extra: dict[str, Any]) -> Any:
    """A model with random weights, biases and LayerNorms, all of which matter to the output."""
    import torch
    import transformers

    if head == "TokenClassification" and "id2label" not in extra:
        extra = {**extra, "id2label": dict(enumerate(TAGS))}
    if "id2label" in extra:
        extra = {**extra, "label2id": {name: i for i, name in extra["id2label"].items()}}
    prefix = {"distilbert": "DistilBert"}.get(family, family.capitalize())
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-5,
    }
    own: dict[str, dict[str, Any]] = {
        "bert": sizes,
        "roberta": {**sizes, "type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3},
        "electra": {**sizes, "embedding_size": 16},
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    }
    settings = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 72,
        "pad_token_id": 0,
        **own[family],
        **extra,
    }
    config = getattr(transformers, f"{prefix}Config")(**settings)
    kind = getattr(transformers, f"{prefix}For{head}" if head else f"{prefix}Model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                norm = weight.dim() == 1 and name.endswith(".weight")
                noise = torch.randn_like(weight) * (0.3 if weight.dim() == 2 else 0.1)
                weight.copy_(1 + noise if norm else noise)
    return model.eval()
