"""Memory of a GPU by preset and ZeRO stage, as Markdown: the numbers of `mllmseg train --dry-run` side by side.

    python scripts/memory_table.py configs/model/*.yaml --offline

Models on the Hugging Face hub need their small config.json. `--offline` takes the sizes of those that our presets name
from the table below instead.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AutoConfig

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
_QWEN_3B = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
# The type and what differs from transformers' defaults, as their config.json has it.
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "lmsys/vicuna-7b-v1.5": ("llama", {}),
    "Qwen/Qwen2.5-1.5B-Instruct": (
        "qwen2",
        {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
        },
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        "qwen2_5_vl",
        {
            "text_config": _QWEN_3B,
            "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
            "tie_word_embeddings": True,
        },
    ),
    "facebook/dinov2-with-registers-base": ("dinov2_with_registers", {"hidden_size": 768}),
    "facebook/dinov2-with-registers-large": (
        "dinov2_with_registers",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
}  # fmt: skip


def main() -> None:
    """Prints two rows a model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=pathlib.Path, nargs="+", help="configs/model/*.yaml")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--images", type=int, default=1, help="of a micro-batch of one GPU")
    parser.add_argument("--branches", type=int, default=11, help="questions an image")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub for the sizes of our presets")
    arguments = parser.parse_args()
    print("| preset | trained | activations | " + " | ".join(name for name, _ in LAYOUTS) + " |")
    print("|---|---|---|" + "---|" * len(LAYOUTS))
    with known_folders() as folders:
        for path in arguments.models:
            model = ModelConfig.from_yaml(path)
            print_rows(path.stem, redirected(model, folders if arguments.offline else {}), arguments)


@contextmanager
def known_folders() -> Iterator[dict[str, str]]:
    """Folders with the config.json of what `KNOWN` knows."""
    with tempfile.TemporaryDirectory() as root:
        folders = {name: f"{root}/{name}" for name in KNOWN}
        for name, (kind, changes) in KNOWN.items():
            AutoConfig.for_model(kind, **changes).save_pretrained(folders[name])
        yield folders


def redirected(model: ModelConfig, folders: dict[str, str]) -> ModelConfig:
    """The same model with its hub ids replaced."""
    name, checkpoint = model.language_model.name, model.vision_tower.checkpoint
    language = model.language_model.model_copy(update={"name": folders.get(name, name)})
    tower = model.vision_tower.model_copy(update={"checkpoint": folders.get(str(checkpoint), checkpoint)})
    return model.model_copy(update={"language_model": language, "vision_tower": tower})


def print_rows(name: str, model: ModelConfig, arguments: argparse.Namespace) -> None:
    """One model, with and without recomputing activations."""
    skeleton = build_skeleton(model)
    for problem in skeleton.unknown:
        print(f"| {name}: not known: {problem} |")
    trained = sum(part.parameters for part in skeleton.parts if part.trained)
    tokens = Tokens(visual_tokens(model), PREFIX_TOKENS + arguments.branches * BRANCH_TOKENS, arguments.branches)
    for checkpointing in (False, True):
        cells = []
        for _, layout in LAYOUTS:
            spread = Layout(**{**vars(layout), "gpus": arguments.gpus, "checkpointing": checkpointing})
            memory = memory_of(skeleton, model, tokens, arguments.images, spread, precision="bfloat16")
            cells.append(f"{memory.total / 1e9:.1f} GB")
        kept = "recomputed" if checkpointing else "kept"
        print(f"| {name} | {trained / 1e6:.0f} M | {kept} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
