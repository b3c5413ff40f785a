"""FP-RefCOCO, FP-RefCOCO+, FP-RefCOCOg: sentences with a false premise beside true ones (`is_false_premise`).

The sentence that would have been right (`gt_sent`) is not a query and is not read.

Source: Wu et al., "See, Say, and Segment: Teaching LMMs to Overcome False Premises", CVPR 2024 (SESAME).
"""

from __future__ import annotations

from mllmseg.data.datasets.refer import UNC_SPLITS, ReferLayout, register

for _set in ("fprefcoco", "fprefcoco+", "fprefcocog"):
    register(
        ReferLayout(_set, (f"{_set}/refs(berkeley_exclude_unified).p",)),
        UNC_SPLITS if _set != "fprefcocog" else ("train", "val", "test"),
        "val",
        f"refs(berkeley_exclude_unified).p and instances.json into refer_seg/{_set}/, COCO's train2014 images into "
        "refer_seg/images/mscoco/images/train2014/",
    )
