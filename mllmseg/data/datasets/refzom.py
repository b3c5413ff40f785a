"""Ref-ZOM: sentences that mean zero, one or many objects (`ann_id` is a list, [] where nothing fits).

Its images are COCO 2014's of both train and val, side by side or merged in one folder.

Source: Hu et al., "Beyond One-to-One: Rethinking the Referring Image Segmentation", ICCV 2023.
"""

from __future__ import annotations

from mllmseg.data.datasets.refer import ReferLayout, register

register(
    ReferLayout(
        "refzom",
        (
            "refzom/Ref_ZOM.p",
            "refzom/Ref-ZOM(final).p",
            "refzom/refs(final).p",
            "ref-zom/Ref_ZOM.p",
            "ref-zom/Ref-ZOM(final).p",
            "ref-zom/refs(final).p",
        ),
    ),
    ("train", "test"),
    "test",
    "Ref_ZOM.p and instances.json into refer_seg/refzom/, COCO's train2014 and val2014 images into "
    "refer_seg/images/mscoco/images/train2014/ and …/val2014/",
)
