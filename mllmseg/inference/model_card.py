"""A model card for the Hugging Face hub: what the folder is, and how to load it."""

from __future__ import annotations

import yaml

from mllmseg.config import ModelConfig
from mllmseg.weights import SCHEME

CARD_FILE = "README.md"


def model_card(name: str, config: ModelConfig, *, merged: bool) -> str:
    """The text of `README.md`.

    Args:
        name: of the model.
        config: as it was trained.
        merged: whether `language_model/` holds the language model in full, or an adapter of it.
    """
    base = config.language_model.name
    facts: dict[str, object] = {
        "library_name": "mllmseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["referring-segmentation", "reasoning-segmentation", "semantic-superpixels"],
    }
    if not base.startswith((SCHEME, ".", "/", "~")):
        facts["base_model"] = base
        facts["base_model_relation"] = "finetune" if merged else "adapter"
    part = "AutoModel" if merged else "PEFT adapter"
    return f"""---
{yaml.safe_dump(facts, sort_keys=False).strip()}
---

# {name}

Answers a sentence about a picture with a mask and words, or says that nothing fits. Trained with mllmseg.

| part | from |
|---|---|
| SAM | {config.sam.encoder}, {config.sam.checkpoint or "random"} |
| vision tower | {config.vision_tower.name}, {config.vision_tower.checkpoint or "none of its own"} |
| language model | {base}, {"LoRA merged" if merged else f"LoRA of rank {config.language_model.lora.r}"} |
| projector | {config.projector.name} |

```python
from mllmseg import Segmenter

segmenter = Segmenter.from_pretrained("{name}")  # this folder, or where it was uploaded to
segmenter.set_image("photo.jpg")
result = segmenter.segment("the cup on the left")
```

`language_model/` is the language part alone ({part}), with its tokenizer. The folder is uploaded as it is:
`hf upload OWNER/{name} .`
"""
