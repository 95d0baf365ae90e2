"""Makes the dense student that a matrix starts from: fewer layers, or a smaller width, of a BERT.

Layers are copied evenly spread, the last to the last, as DistilBERT's. A narrower model takes the
columns of the embeddings with the largest norm and, layer by layer, the heads and FFN neurons whose
weights are largest. It is then taught upstream on the same text as the sparse models, for as many
tokens, with nothing pruned:

    python -m benchmarks.experiments.students --model DENSE --layers 3 --out START
    prunella prune --model START --teacher DENSE --sparsity 0 --text TEXT --out STUDENT \\
        --batch-tokens 2048 --steps 3100 --learning-rate 1e-3 --dropout 0 --frozen embeddings \\
        --mlm 0 --distillation.logits 0 --distillation.hidden 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunella.checkpoint import open_checkpoint
from prunella.distillation import layer_map
from prunella.errors import InputError
from prunella.roles import role_of

_LAYER = "encoder.layer."


def make_student(model: Any, layers: int, width: int) -> Any:
    """A smaller BERT of a larger one's weights.

    Args:
        model: A transformers BertModel.
        layers: Layers of the student.
        width: Its hidden size, a multiple of the size of a head; the FFN keeps its ratio.

    Raises:
        InputError: If there are fewer layers than that, or heads do not divide the width.
    """
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    if not 1 <= layers <= config.num_hidden_layers:
        raise InputError(f"--layers {layers}: the model has {config.num_hidden_layers}")
    if width % head or not head <= width <= config.hidden_size:
        raise InputError(
            f"--width {width}: expected a multiple of a head's {head}, up to {config.hidden_size}"
        )
    smaller = type(config)(**config.to_dict())
    smaller.num_hidden_layers, smaller.hidden_size = layers, width
    smaller.num_attention_heads = width // head
    smaller.intermediate_size = config.intermediate_size * width // config.hidden_size
    student = type(model)(smaller)

    source = model.state_dict()
    columns = _largest(source["embeddings.word_embeddings.weight"].norm(dim=0), width)
    taken: dict[str, Tensor] = {}
    for name, target in student.state_dict().items():
        if name.startswith(_LAYER):
            index, rest = name.removeprefix(_LAYER).split(".", 1)
            index = layer_map(layers, config.num_hidden_layers)[int(index)]
            layer = f"{_LAYER}{index}."
            heads, neurons = _heads_and_neurons(source, layer, head, smaller)
            taken[name] = _cut(source[layer + rest], rest, columns, heads, neurons)
        else:
            taken[name] = _cut(source[name], name, columns, columns, columns)
        assert taken[name].shape == target.shape, name
    student.load_state_dict(taken)
    return student


def _heads_and_neurons(
    source: dict[str, Tensor], layer: str, head: int, smaller: Any
) -> tuple[Tensor, Tensor]:
    """Rows of the heads and of the FFN neurons that a layer keeps."""
    value = source[f"{layer}attention.self.value.weight"]
    norms = value.reshape(-1, head * value.shape[1]).norm(dim=1)
    heads = _largest(norms, smaller.num_attention_heads)
    rows = (heads[:, None] * head + torch.arange(head)).reshape(-1)
    neurons = source[f"{layer}intermediate.dense.weight"].norm(dim=1)
    return rows, _largest(neurons, smaller.intermediate_size)


def _cut(tensor: Tensor, name: str, columns: Tensor, heads: Tensor, neurons: Tensor) -> Tensor:
    """The part of a tensor that the student has: of its rows where it is a matrix, and columns."""
    role = role_of(_LAYER + "0." + name)
    inner = heads if ".self." in name else neurons if "intermediate" in name else columns
    read = {"attention_output": heads, "ffn_out": neurons}.get(role or "", columns)
    if tensor.ndim == 1:
        return tensor[inner]
    if "embeddings" in name:
        return tensor[:, columns]
    return tensor[inner][:, read]


def _largest(scores: Tensor, count: int) -> Tensor:
    """Where the largest scores are, in order of place."""
    return scores.topk(count).indices.sort().values


def main() -> int:
    from transformers import AutoModel, AutoTokenizer

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.students",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder of a BERT")
    parser.add_argument("--layers", type=int, help="layers to keep (default: all)")
    parser.add_argument("--width", type=int, help="hidden size to keep (default: all)")
    parser.add_argument("--out", required=True, help="folder of the student")
    given = parser.parse_args()
    try:
        folder = open_checkpoint(Path(given.model)).path
        model = AutoModel.from_pretrained(folder)
        if model.config.model_type != "bert":
            raise InputError(f"{folder}: a {model.config.model_type}; this cuts a BERT")
        layers = given.layers or model.config.num_hidden_layers
        student = make_student(model, layers, given.width or model.config.hidden_size)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    student.save_pretrained(given.out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(given.out)
    print(f"{given.out}: {sum(p.numel() for p in student.parameters()):,} weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
