"""Where masks lose overlap on the way from the best superpixels to the answer.

    python scripts/loss_budget.py --data ../shared/data/coco-mini

Each column takes one more decision away from an oracle and gives it to the model; all are mean IoU over the sentences
with a target, so that the difference between two neighbours is what that decision costs.
"""

from __future__ import annotations

import argparse
import collections
import pathlib

import numpy as np
import torch

from mllmseg.agent.regions import iou
from mllmseg.data.datasets.coco_mini import CocoMini, Expression, Photo, instance_mask, union_mask
from mllmseg.eval.superpixel_oracle import BoolArray, best_cut, label_map_at, score_object
from mllmseg.inference.segmenter import Segmenter

COLUMNS = ("best union of superpixels", "pointer's order, best cut", "pointer's own cut", "SAM's mask", "not rejected")
OTHER = "another of its kind instead, %"


def is_another(photo: Photo, expression: Expression, chosen: BoolArray, target: BoolArray) -> bool:
    """Whether what was chosen is another instance of the target's category rather than the target."""
    meant = set(expression.ann_ids or ())
    categories = {photo.instance(ident).category for ident in meant}
    others = [item for item in photo.instances if item.category in categories and item.id not in meant]
    drawn = [instance_mask(photo, item) for item in others if item.segmentation]
    return any(iou(chosen, mask) > iou(chosen, target) for mask in drawn)


def budget(segmenter: Segmenter, photo: Photo, expressions: list[Expression]) -> list[list[float]]:
    """A row for each sentence: the values of `COLUMNS`, then of `OTHER`."""
    segmenter.set_image(photo.path)
    features = segmenter.features
    labels = label_map_at(features.superpixels.label_map.numpy(), features.input_size, photo.size)
    rows = []
    for expression, found in zip(
        expressions, segmenter.segment([item.text for item in expressions], threshold=0.0), strict=True
    ):
        target = union_mask(photo, expression.ann_ids or ()).astype(bool)
        scores, mask = found.superpixel_scores[0].numpy(), found.masks[0].numpy()
        chosen = (scores > 0.5)[labels]
        kept = iou(mask, target) if found.score >= segmenter.threshold else 0.0
        oracle = score_object(labels, target).best_iou
        values = [oracle, best_cut(labels, target, scores), iou(chosen, target), iou(mask, target), kept]
        rows.append([*values, 100.0 * is_another(photo, expression, chosen, target)])
    return rows


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data/coco-mini"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", help="a checkpoint; none for the one in the package")
    parser.add_argument("--every", type=int, default=1, help="only every so many photos")
    arguments = parser.parse_args()
    data = CocoMini(arguments.data, arguments.split)
    spoken = collections.defaultdict(list)
    for expression in data.expressions:
        if expression.ann_ids:
            spoken[expression.image_id].append(expression)
    segmenter = Segmenter.from_pretrained(arguments.model)
    rows: dict[str, list[list[float]]] = collections.defaultdict(list)
    with torch.inference_mode():
        for photo in list(data.photos.values())[:: arguments.every]:
            for expression, row in zip(spoken[photo.id], budget(segmenter, photo, spoken[photo.id]), strict=True):
                kind = f"template/{expression.rule}" if expression.source == "template" else "human"
                for name in {"all", kind.partition("/")[0], kind}:
                    rows[name].append(row)
    print("| sentences | n | " + " | ".join([*COLUMNS, OTHER]) + " |\n|---|---:|" + "---:|" * (len(COLUMNS) + 1))
    for name in sorted(rows):
        values = np.mean(rows[name], axis=0)
        cells = [f"{value:.3f}" for value in values[:-1]] + [f"{values[-1]:.0f}"]
        print(f"| {name} | {len(rows[name])} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
