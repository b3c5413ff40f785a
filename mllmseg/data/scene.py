"""What can be said with certainty about the labels of one photo: counts, places, sizes, what is absent.

Geometry is on boxes in fractions of the photo (x to the right, y down, both 0..1), because most labels are boxes.
Margins keep near-ties out: a sentence is only made where nobody would argue about its target.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

from mllmseg.data import words
from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.looks import Look

MIN_AREA = 0.003  # of the photo, by box: smaller things are no target of their own
SALIENT_AREA = 0.10  # a thing this large may be called "the person" although smaller ones may be unlabelled
MARGIN_X, MARGIN_Y = 0.10, 0.15  # between centres, for "left" and "top"
RANK_MARGIN = 0.05  # between neighbours' centres, for "second from the left" and "middle"
EDGE_TOLERANCE = 0.02  # by how much edges may contradict centres
SIZE_RATIO = 1.8  # between areas, for "largest" and "smallest"


@dataclass(frozen=True)
class Thing:
    """An instance with its box (x0, y0, x1, y1) in fractions of the photo, cut to it.

    Attributes:
        can_be_target: large enough, and allowed by the caller.
    """

    instance: Instance
    x0: float
    y0: float
    x1: float
    y1: float
    can_be_target: bool

    @property
    def id(self) -> int:
        """The annotation's id."""
        return self.instance.id

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the box's centre."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def area(self) -> float:
        """The box's share of the photo."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


class Scene:
    """A photo's labels, sorted by what may be said about them.

    Attributes:
        groups: category → all its instances, for things and stuff inside the scope and without crowds: counts hold.
        salient: single large things outside the scope: may be named, but nothing may be said about their number.
        present: every category with a label, crowds too.
        absent: categories that are certainly not in the photo, nor anything that might be taken for them.
        labelled: every category with a label → its things, crowds too.
        scope: categories that were looked for.
        captions: sentences about the whole photo.
    """

    def __init__(
        self,
        photo: Photo,
        categories: Mapping[str, bool],
        allowed: Collection[int] | None = None,
        looks: Mapping[int, Look] | None = None,
    ) -> None:
        """`allowed`: ids that may be targets (those with a mask, say); None allows all. `looks`: as measured."""
        by_category: dict[str, list[Thing]] = {}
        crowded = {item.category for item in photo.instances if item.is_crowd}
        for item in photo.instances:
            by_category.setdefault(item.category, []).append(_thing(item, photo.size, allowed))
        certain = {c: tuple(things) for c, things in by_category.items() if c not in crowded}
        nameable = {c: things for c, things in certain.items() if c not in words.UNNAMEABLE}
        self._isthing = categories
        self._looks = looks or {}
        self.labelled = by_category
        self.scope = photo.scope
        self.captions = photo.captions
        self.present = frozenset(by_category)
        self.groups = {c: things for c, things in nameable.items() if c in photo.scope}
        self.salient = {
            c: things[0]
            for c, things in nameable.items()
            if c not in photo.scope and len(things) == 1 and things[0].area >= SALIENT_AREA
        }
        self.absent = tuple(
            c
            for c in sorted(photo.scope - words.UNNAMEABLE)
            if not any(words.confusable(c, other) for other in self.present)
        )

    def countable(self) -> dict[str, tuple[Thing, ...]]:
        """`groups` of things told apart one by one: no stuff, no masks that unite a class (both shoes)."""
        return {
            c: things
            for c, things in self.groups.items()
            if self._isthing[c] and all(thing.instance.mask_source != "class" for thing in things)
        }

    def unique(self) -> dict[str, Thing]:
        """Categories with exactly one instance, stuff included, that can be meant by their bare name."""
        singles = {c: things[0] for c, things in self.groups.items() if len(things) == 1}
        singles.update(self.salient)
        return {c: thing for c, thing in singles.items() if not self._blurred(c)}

    def look(self, thing: Thing) -> Look | None:
        """What was measured of a thing, if it was."""
        return self._looks.get(thing.id)

    def is_thing(self, category: str) -> bool:
        """Whether it is a thing, else stuff."""
        return self._isthing[category]

    def _blurred(self, category: str) -> bool:
        """Whether stuff of nearly the same name is present: "the wall" beside a brick wall means either."""
        return any(
            other != category
            and words.confusable(category, other)
            and not (self._isthing[category] and self._isthing[other])
            for other in self.present
        )


def _thing(item: Instance, size: tuple[int, int], allowed: Collection[int] | None) -> Thing:
    (height, width), (x, y, w, h) = size, item.box
    x0, y0 = min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0)
    x1, y1 = min((x + w) / width, 1.0), min((y + h) / height, 1.0)
    big = (x1 - x0) * (y1 - y0) >= MIN_AREA
    return Thing(item, x0, y0, x1, y1, big and (allowed is None or item.id in allowed))


# Directions: the axis (0 x, 1 y) and the sign that makes "more so" smaller.
DIRECTIONS = {"left": (0, 1.0), "right": (0, -1.0), "top": (1, 1.0), "bottom": (1, -1.0)}


def extreme(things: Collection[Thing], direction: str) -> Thing | None:
    """The one furthest to the `left`, `right`, `top` or `bottom`, or None where it is not clear."""
    axis, sign = DIRECTIONS[direction]
    margin = MARGIN_Y if axis else MARGIN_X
    first, *others = sorted(things, key=lambda thing: sign * thing.centre[axis])
    clear = all(
        sign * (other.centre[axis] - first.centre[axis]) >= margin
        and _edge(first, axis, sign) <= _edge(other, axis, sign) + EDGE_TOLERANCE
        for other in others
    )
    return first if clear and others else None


def _edge(thing: Thing, axis: int, sign: float) -> float:
    near, far = (thing.y0, thing.y1) if axis else (thing.x0, thing.x1)
    return near if sign > 0 else -far


def ranked(things: Collection[Thing]) -> list[Thing] | None:
    """From left to right, or None where two neighbours' centres are too close to rank."""
    row = sorted(things, key=lambda thing: thing.centre[0])
    gaps = [right.centre[0] - left.centre[0] for left, right in pairwise(row)]
    return row if all(gap >= RANK_MARGIN for gap in gaps) else None


def by_size(things: Collection[Thing], *, largest: bool) -> Thing | None:
    """The largest or smallest one by box and by labelled area, or None where it is not clear."""
    first, *others = sorted(things, key=lambda thing: thing.area, reverse=largest)

    def clear(other: Thing) -> bool:
        big, small = (first, other) if largest else (other, first)
        return big.area >= SIZE_RATIO * small.area and big.instance.area >= SIZE_RATIO * small.instance.area

    return first if others and all(clear(other) for other in others) else None


def gap(first: Thing, second: Thing) -> float:
    """The distance between two boxes; 0 where they touch or overlap."""
    dx = max(first.x0 - second.x1, second.x0 - first.x1, 0.0)
    dy = max(first.y0 - second.y1, second.y0 - first.y1, 0.0)
    return float((dx * dx + dy * dy) ** 0.5)


def is_beyond(first: Thing, second: Thing, direction: str) -> bool:
    """Whether `first` is clearly to the left/right/top/bottom of `second`: boxes apart, mainly along that axis."""
    axis, sign = DIRECTIONS[direction]
    along = sign * (second.centre[axis] - first.centre[axis])
    across = abs(second.centre[1 - axis] - first.centre[1 - axis])
    apart = _edge(second, axis, sign) + _edge(first, axis, -sign)
    return along >= max(MARGIN_X, across) and apart >= -EDGE_TOLERANCE


def may_be_beyond(first: Thing, second: Thing, direction: str) -> bool:
    """Whether somebody could call `first` to the left/right/top/bottom of `second`: by centres alone."""
    axis, sign = DIRECTIONS[direction]
    return sign * (second.centre[axis] - first.centre[axis]) > 0


def is_beside(first: Thing, second: Thing) -> bool:
    """Whether two things are clearly next to each other: at one height, close, side by side rather than overlapping."""
    overlap_y = min(first.y1, second.y1) - max(first.y0, second.y0)
    overlap_x = max(min(first.x1, second.x1) - max(first.x0, second.x0), 0.0)
    return (
        gap(first, second) <= 0.05
        and overlap_y >= 0.5 * min(first.y1 - first.y0, second.y1 - second.y0)
        and overlap_x <= 0.3 * min(first.x1 - first.x0, second.x1 - second.x0)
    )


def in_half(thing: Thing, side: str) -> bool:
    """Whether a thing lies wholly in the `left` or `right` half, with room to spare."""
    return thing.x1 <= 0.45 if side == "left" else thing.x0 >= 0.55


def in_box(point: tuple[float, float], thing: Thing, *, margin: float = 0.0) -> bool:
    """Whether a point lies in a thing's box, widened by `margin`."""
    (x, y), m = point, margin
    return thing.x0 - m <= x <= thing.x1 + m and thing.y0 - m <= y <= thing.y1 + m
