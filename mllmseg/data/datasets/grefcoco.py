"""gRefCOCO: sentences that mean one object, several, or none (`ann_id` is a list, [-1] where nothing fits).

Source: Liu et al., "GRES: Generalized Referring Expression Segmentation", CVPR 2023.
"""

from __future__ import annotations

from mllmseg.data.datasets.refer import UNC_SPLITS, ReferLayout, register

register(
    ReferLayout("grefcoco", ("grefcoco/grefs(unc).p", "grefcoco/grefs(unc).json")),
    UNC_SPLITS, "val",
    "grefs(unc).p or grefs(unc).json and instances.json into refer_seg/grefcoco/, COCO's train2014 images into "
    "refer_seg/images/mscoco/images/train2014/",
)  # fmt: skip
