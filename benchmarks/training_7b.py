"""LoRA steps of a 7B-class host of random weights on one GPU: samples/s and MFU at 40 and 576 visual tokens.

    python benchmarks/training_7b.py                       # Vicuna-7B's shape in bfloat16, 50 steps each
    python benchmarks/training_7b.py --layers 2 --width 64 --device cpu --steps 2    # does it run at all?

Prints Markdown. MFU counts 4 FLOP a parameter and token (forward, and backward to the activations: frozen weights have
no gradient of their own) against --tflops, the GPU's dense bfloat16 rate.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mllmseg.config import LanguageModelConfig, LoraConfig
from mllmseg.constants import SEG_TOKEN
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.models.host import Host
from mllmseg.models.losses import text_loss
from mllmseg.models.mllm import Mllm, branch_attention_mask, build_mllm, load_tokenizer, pad
from mllmseg.structures import Turn
from mllmseg.weights import resolve


def build(options: argparse.Namespace) -> Mllm:
    """A Llama of random weights with LoRA, the frozen part in bfloat16."""
    source = resolve("mllmseg:smollm2")  # for its tokenizer
    config = LlamaConfig(
        vocab_size=len(load_tokenizer(source)),
        hidden_size=options.width,
        intermediate_size=round(options.width * 2.6875),
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // options.head,
        attn_implementation="sdpa",
    )
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    mllm = build_mllm(LanguageModelConfig(lora=LoraConfig(dropout=0.0)), source, Host(model, None))
    return mllm.to(options.device)


def measure(mllm: Mllm, visual_tokens: int, options: argparse.Namespace) -> tuple[float, int, float]:
    """Samples a second, tokens of a sample, and peak memory in GB."""
    encoder = ConversationEncoder(mllm.tokenizer, "You answer questions about a picture and point at things in it.")
    branches = [[Turn("the cup on the left of the plate", f"{SEG_TOKEN} Here is the cup on the left of the plate.")]]
    texts = [encoder.encode(branches, visual_tokens).to(options.device) for _ in range(options.batch)]
    input_ids = pad([text.input_ids for text in texts], 0)
    labels = pad([text.labels for text in texts], -100)
    visual = torch.randn(options.batch * visual_tokens, mllm.hidden_size, device=options.device, dtype=torch.bfloat16)
    trained = [item for item in mllm.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4, betas=(0.9, 0.95))
    began = 0.0
    for step in range(options.steps + options.warm_up):
        if step == options.warm_up:
            synchronise(options.device)
            began = time.perf_counter()
        hidden, _ = mllm(
            input_ids,
            visual_tokens=visual,
            attention_mask=branch_attention_mask(texts),
            position_ids=pad([text.position_ids for text in texts], 0),
        )
        counted = labels[:, 1:] != -100
        loss = text_loss(mllm.logits(hidden[:, :-1][counted]), labels[:, 1:][counted])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    synchronise(options.device)
    seconds = (time.perf_counter() - began) / options.steps
    peak = torch.cuda.max_memory_allocated() / 1e9 if options.device == "cuda" else float("nan")
    return options.batch / seconds, input_ids.shape[1], peak


def synchronise(device: str) -> None:
    """Waits for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Reads the command line, measures both lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--head", type=int, default=128, help="width of an attention head")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[40, 576])
    parser.add_argument("--tflops", type=float, default=790.0, help="dense bfloat16 rate of the GPU; 790: an H200's")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    torch.manual_seed(0)
    options.head = min(options.head, options.width // 2)
    mllm = build(options)
    count = sum(item.numel() for item in mllm.causal_lm.parameters())
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}: {count / 1e9:.2f} G parameters, "
        f"batch {options.batch}, {options.steps} steps\n"
    )
    print(
        "| visual tokens | tokens a sample | samples/s | TFLOP/s | MFU | peak memory, GB |\n|---|---|---|---|---|---|"
    )
    for visual_tokens in options.tokens:
        rate, length, peak = measure(mllm, visual_tokens, options)
        teraflops = 4 * count * length * rate / 1e12
        share = teraflops / options.tflops
        print(f"| {visual_tokens} | {length} | {rate:.1f} | {teraflops:.3g} | {share:.1%} | {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()
