"""R-RefCOCO, R-RefCOCO+, R-RefCOCOg: references with negative sentences (`exist` of a sentence; missing means true).

The original files are preferred; SESAME's filtered copies (`R-refcoco/refs(unc_exclude_unified).p`) are read where
those are all there is, and the dataset's `source` says which.

Source: Wu et al., "Towards Robust Referring Image Segmentation", TIP 2024.
"""

from __future__ import annotations

from mllmseg.data.datasets.refer import UNC_SPLITS, ReferLayout, register

for _set, _partition in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
    register(
        ReferLayout(
            f"r{_set}",
            (
                f"r{_set}/refs({_partition}).p",
                f"R-{_set}/refs({_partition}).p",
                f"R-{_set}/refs({_partition}_exclude_unified).p",
            ),
        ),
        UNC_SPLITS if _partition == "unc" else ("train", "val", "test"),
        "val",
        f"refs({_partition}).p and instances.json into r{_set}/, or SESAME's copies into refer_seg/R-{_set}/; COCO's "
        "train2014 images into refer_seg/images/mscoco/images/train2014/",
    )
