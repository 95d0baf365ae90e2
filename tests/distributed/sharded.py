"""A pruned model whose weights two processes share out, and what becomes of its masks."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any


def train_sharded(environment: dict[str, str], folder: Path) -> None:
    """Three steps of AdamW on a pruned model, by FSDP 2 and alone on the whole batches."""
    os.environ.update(environment)
    import torch
    import torch.distributed as dist
    from transformers import BertConfig, BertForMaskedLM

    from prunella.sparsity.masks import Masks

    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=37,
        num_attention_heads=2,
        num_hidden_layers=1,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    sharded, alone = BertForMaskedLM(config), BertForMaskedLM(config)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    with torch.no_grad():
        sharded.get_parameter(name)[::2] = 0
    alone.load_state_dict(sharded.state_dict())
    masks = Masks.of_zeros({name: sharded.get_parameter(name)})
    _shard(sharded)
    texts = torch.randint(0, 50, (3, 4, 10))
    rank = dist.get_rank()
    for model, rows in ((sharded, slice(2 * rank, 2 * rank + 2)), (alone, slice(0, 4))):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for text in texts:
            model(input_ids=text[rows], labels=text[rows]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            masks.zero_weights()
    whole = {n: _gathered(p) for n, p in sharded.named_parameters()}
    parameter: Any = sharded.get_parameter(name)
    facts = {
        "difference": max(
            float((whole[n] - p).abs().max().detach()) for n, p in alone.named_parameters()
        ),
        "parameter": type(parameter).__name__,
        "rows": list(parameter.to_local().shape),
        "pruned": int((~masks.kept(name)).sum()),
        "came back": int((whole[name][~masks.kept(name)] != 0).sum()),
        "made after": _failure(lambda: Masks.of_zeros({name: parameter})),
        **_with_accelerate(alone),
    }
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()


def _shard(model: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for module in (*model.bert.encoder.layer, model):
        fully_shard(module, mesh=mesh)


def _gathered(parameter: Any) -> Any:
    return parameter.detach().full_tensor()


def _with_accelerate(model: Any) -> dict[str, str]:
    """What accelerate makes of a model when FSDP is switched on."""
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    os.environ["ACCELERATE_USE_FSDP"] = "true"
    accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    wrapped = accelerator.prepare_model(model)
    return {
        "accelerate": str(accelerator.distributed_type),
        "wrapped": type(wrapped).__name__,
    }


def _failure(action: Any) -> str:
    """How an action fails."""
    try:
        action()
    except RuntimeError as error:
        return str(error)
    return "not at all"
