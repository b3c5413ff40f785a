"""Memory of a GPU by model and ZeRO stage, as Markdown: the numbers of `mllmseg train --dry-run` side by side.

    python scripts/memory_table.py configs/model/tiny.yaml --gpus 8 --images 2

Models by a hub id need the small config.json from there. Where the hub cannot be reached, `--as-llama-7b FILE` counts a
model's file with Llama 2 7B's sizes, those of Vicuna 7B, in the place of its language model.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

from transformers import LlamaConfig

from mllmseg.config import ModelConfig
from mllmseg.models.skeleton import build_skeleton
from mllmseg.train.estimate import BRANCH_TOKENS, PREFIX_TOKENS, Layout, Tokens, memory_of, visual_tokens

LAYOUTS = (
    ("no ZeRO", Layout()),
    ("ZeRO-1", Layout(zero=1)),
    ("ZeRO-2", Layout(zero=2)),
    ("ZeRO-3", Layout(zero=3)),
    ("ZeRO-3, offloaded", Layout(zero=3, offload_optimizer=True, offload_parameters=True)),
)


def main() -> None:
    """Prints a row a model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=pathlib.Path, nargs="*", help="configs/model/*.yaml")
    parser.add_argument("--as-llama-7b", type=pathlib.Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--images", type=int, default=1, help="of a micro-batch of one GPU")
    parser.add_argument("--branches", type=int, default=11, help="questions an image")
    arguments = parser.parse_args()
    print("| model | activations | " + " | ".join(name for name, _ in LAYOUTS) + " |")
    print("|---|" + "---|" * (1 + len(LAYOUTS)))
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(torch_dtype="bfloat16").save_pretrained(folder)
        for path in arguments.models:
            print_rows(path.stem, ModelConfig.from_yaml(path), arguments)
        for path in arguments.as_llama_7b:
            print_rows(path.stem, ModelConfig.from_yaml(path, [f"language_model.name={folder}"]), arguments)


def print_rows(name: str, model: ModelConfig, arguments: argparse.Namespace) -> None:
    """One model, with and without recomputing activations."""
    skeleton = build_skeleton(model)
    for problem in skeleton.unknown:
        print(f"| {name}: not known: {problem} |")
    tokens = Tokens(visual_tokens(model), PREFIX_TOKENS + arguments.branches * BRANCH_TOKENS, arguments.branches)
    for checkpointing in (False, True):
        cells = []
        for _, layout in LAYOUTS:
            spread = Layout(**{**vars(layout), "gpus": arguments.gpus, "checkpointing": checkpointing})
            memory = memory_of(skeleton, model, tokens, arguments.images, spread, precision="bfloat16")
            cells.append(f"{memory.total / 1e9:.1f} GB")
        print(f"| {name} | {'recomputed' if checkpointing else 'kept'} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
