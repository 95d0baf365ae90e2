"""The engine beside ONNX Runtime, OpenVINO and PyTorch: `prunella bench`, its result kept.

Without --model it takes random weights of a shape with random zeros: times depend on where zeros
lie only through their number in each row. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch
from rich.console import Console
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.common import command, environment
from prunella.bench.run import bench
from prunella.checkpoint import write_json
from prunella.data.vocabulary import train_wordpiece
from prunella.packing import pack
from prunella.settings import BenchSettings, PackSettings
from prunella.sparsity.targets import find_targets, pruned_parameters

_SHAPES = {"tiny": (2, 64, 128), "small": (6, 384, 1536), "base": (12, 768, 3072)}
_VOCABULARY = 30522
_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="prunella-benchmark-") as folder:
        model = options.model or _made_up(Path(folder), options.shape, options.sparsity)
        done = bench(
            BenchSettings(
                model=str(model),
                shapes=options.shapes,
                threads=options.threads,
                engines=options.engines,
                texts=options.texts,
                dense=options.dense,
                seconds=options.seconds,
            )
        )
    document = done.to_json()
    document |= {
        "name": f"engine-{options.name}",
        "command": command(),
        "model": Path(options.model).name if options.model else _described(options),
        # The machine's load is that of the run itself; instruction sets are the benchmark's.
        "environment": environment() | document["environment"],
    }
    for path in ("texts", "dense"):  # the folder of a file says nothing to a reader
        given = document["settings"][path]
        document["settings"][path] = given and Path(given).name
    Path(options.results).mkdir(parents=True, exist_ok=True)
    write_json(Path(options.results) / f"engine-{options.name}.json", document)
    done.show(Console(highlight=False))


def _made_up(folder: Path, shape: str, sparsity: float) -> Path:
    """A packed classifier of random int8 weights."""
    layers, width, inner = _SHAPES[shape]
    torch.manual_seed(0)
    text = folder / "text.txt"
    text.write_text("\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(2, width // 64),
        intermediate_size=inner,
    )
    model = BertForSequenceClassification(config)
    for weight in pruned_parameters(model, find_targets(model)).values():
        weight.data *= torch.rand_like(weight) >= sparsity
    model.save_pretrained(folder / "model")
    train_wordpiece([str(text)], 4000).save_pretrained(folder / "model")
    out = folder / "model.prn"
    pack(PackSettings(model=str(folder / "model"), out=str(out), weights="int8"))
    return out


def _described(options: argparse.Namespace) -> str:
    layers, width, _ = _SHAPES[options.shape]
    return f"BERT of {layers} x {width}, {100 * options.sparsity:g} % random zeros"


def _options() -> argparse.Namespace:
    defaults = {name: field.default for name, field in BenchSettings.model_fields.items()}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", help="of the result file (default: shape and sparsity)")
    parser.add_argument("--model", help="packed file instead of random weights")
    parser.add_argument("--dense", help="checkpoint of its dense parent")
    parser.add_argument("--shape", default="base", choices=_SHAPES)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--texts", help="real texts to measure as well")
    for name in ("shapes", "threads", "engines"):
        parser.add_argument(f"--{name}", default=defaults[name])
    parser.add_argument("--seconds", type=float, default=defaults["seconds"])
    parser.add_argument("--results", default=str(_RESULTS), help="folder of the result files")
    options = parser.parse_args(sys.argv[1:])
    if options.name is None:
        options.name = (
            Path(options.model).stem
            if options.model
            else f"{options.shape}-{100 * options.sparsity:g}"
        )
    return options


if __name__ == "__main__":
    main()
