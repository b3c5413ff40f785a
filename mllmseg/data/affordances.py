"""What is usual between things: what lies on what, what is in what, what people carry, what has a colour of its own.

Geometry decides what is the case in a photo; these tables only decide whether one would say so.
"""

# Their colour says nothing, is not the object's own (a screen), or the mask holds what is seen through them.
COLOURLESS = frozenset(
    {
        "person", "zebra", "giraffe", "elephant", "pizza", "sandwich", "hot dog", "bicycle", "tv", "laptop",
        "cell phone", "potted plant", "dining table", "skin", "sports ball", "wine glass", "microwave", "oven",
        "broccoli", "carrot", "banana", "orange", "clock", "fork", "knife", "spoon", "tennis racket", "scissors",
        "traffic light", "airplane", "remote", "mouse",
    }
)  # fmt: skip
# (what lies, what it lies on) that people put into words as "on"; geometry decides whether it does.
SEATS = ("horse", "bicycle", "motorcycle", "skateboard", "surfboard", "snowboard", "elephant", "bench", "couch", "bed")
TABLEWARE = (
    "cup", "bowl", "bottle", "wine glass", "fork", "knife", "spoon", "pizza", "cake", "sandwich", "donut", "vase",
    "laptop", "book", "banana", "apple", "orange", "hot dog", "cell phone", "keyboard", "mouse", "potted plant",
    "scissors", "remote", "teddy bear", "handbag", "carrot", "broccoli",
)  # fmt: skip
GROUND = (
    "grass-merged", "road", "pavement-merged", "sand", "snow", "floor-other-merged", "floor-wood", "dirt-merged",
    "playingfield", "rug-merged", "platform", "gravel", "rock-merged", "table-merged", "counter", "shelf",
)  # fmt: skip
ON = {
    ("person", seat) for seat in (*SEATS, "chair", "skis")
} | {
    (thing, "dining table") for thing in TABLEWARE
} | {
    (animal, seat) for animal in ("cat", "dog", "teddy bear") for seat in ("couch", "bed", "chair", "bench", "car")
} | {
    (thing, seat) for thing in ("laptop", "book", "remote", "suitcase", "handbag") for seat in ("couch", "bed", "bench")
}  # fmt: skip
INSIDE = {
    *((thing, "bowl") for thing in ("apple", "orange", "banana", "broccoli", "carrot", "spoon")),
    *((thing, "sink") for thing in ("cup", "bowl", "bottle", "spoon", "fork", "knife")),
    *((thing, "suitcase") for thing in ("cat", "dog", "teddy bear", "book")),
    *((thing, "boat") for thing in ("person", "dog")),
    ("person", "car"), ("dog", "car"), ("spoon", "cup"), ("toothbrush", "cup"),
}  # fmt: skip
# What somebody is seen with, and which other labels it may be taken for.
CARRIED = (
    "umbrella", "backpack", "handbag", "suitcase", "tie", "skateboard", "surfboard", "snowboard", "skis",
    "tennis racket", "baseball bat", "baseball glove", "frisbee", "cell phone",
)  # fmt: skip
# What stands on these is behind or in front of them as often as above or below.
SURFACES = frozenset({"dining table", "bed", "couch", "bench", "chair", "table-merged", "counter", "rug-merged"})
# What lies within a person's outline.
WORN = frozenset(
    {
        "accessories", "belt", "blazer", "blouse", "bodysuit", "boots", "bracelet", "cape", "cardigan", "coat", "dress",
        "flats", "glasses", "gloves", "hair", "hat", "heels", "hoodie", "jacket", "jeans", "jumper", "leggings",
        "loafers", "necklace", "pants", "pumps", "ring", "romper", "sandals", "scarf", "shirt", "shoes", "shorts",
        "skin", "skirt", "sneakers", "socks", "stockings", "suit", "sunglasses", "sweater", "sweatshirt", "t-shirt",
        "tie", "tights", "top", "vest", "watch", "wedges",
    }
)  # fmt: skip
BEARERS = frozenset({landmark for _, landmark in ON})
# Carried things that labels often leave out: that somebody has none is not said.
EASILY_MISSED = frozenset({"handbag", "backpack", "tie", "cell phone"})
