"""What things are called: plurals, agreement, synonyms, and which labels people mix up."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


# From one and from first on.
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)

# Panoptic stuff labels as people would say them. Others lose "-merged", "-other", "-stuff".
_STUFF_NAMES = {
    "building-other-merged": "building",
    "floor-other-merged": "floor",
    "floor-wood": "wooden floor",
    "food-other-merged": "food",
    "playingfield": "playing field",
    "sky-other-merged": "sky",
    "tree-merged": "trees",
    "wall-brick": "brick wall",
    "wall-other-merged": "wall",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
    "water-other": "water",
    "window-blind": "window blind",
    "window-other": "window",
    "flower": "flowers",
    "railroad": "railroad",
}

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "aeroplane"),
    "baseball glove": ("baseball mitt",),
    "bicycle": ("bike",),
    "cell phone": ("phone", "mobile phone"),
    "couch": ("sofa",),
    "dining table": ("table",),
    "donut": ("doughnut",),
    "fire hydrant": ("hydrant",),
    "hair drier": ("hair dryer",),
    "handbag": ("purse",),
    "hot dog": ("hotdog",),
    "motorcycle": ("motorbike",),
    "mouse": ("computer mouse",),
    "person": ("human",),
    "man": ("guy", "gentleman"),
    "woman": ("lady",),
    "boy": ("kid",),
    "girl": ("kid",),
    "potted plant": ("plant",),
    "refrigerator": ("fridge",),
    "remote": ("remote control",),
    "sports ball": ("ball",),
    "teddy bear": ("stuffed bear", "teddy"),
    "tennis racket": ("racket",),
    "tie": ("necktie",),
    "traffic light": ("stoplight",),
    "tv": ("television",),
}

_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "knife": "knives",
    "shelf": "shelves",
    "scarf": "scarves",
    "sheep": "sheep",
    "mouse": "mice",
    "computer mouse": "computer mice",
    "broccoli": "broccoli",
    "sky": "sky",
}

_ALWAYS_PLURAL = _names(
    "scissors,skis,pants,jeans,shorts,leggings,tights,stockings,glasses,sunglasses,heels,boots,shoes,sneakers,sandals,"
    "socks,gloves,loafers,flats,pumps,wedges,trees,flowers,stairs,accessories"
)
_MASS = _names(
    "broccoli,hair,skin,grass,sky,snow,sand,sea,water,dirt,gravel,pavement,food,fruit,cardboard,paper,floor,"
    "wooden floor,ceiling,railroad"
)

# Labels that annotators or viewers take for one another, so that neither is clearly absent where the other is present.
_CONFUSABLE = tuple(
    _names(group)
    for group in (
        "car,truck",
        "bus,truck",
        "handbag,backpack,suitcase,bag,purse,wallet,accessories",
        "couch,chair,bench",
        "couch,bed",
        "cup,wine glass,bowl,bottle,vase",
        "potted plant,vase,tree-merged,flower",
        "oven,microwave,toaster",
        "tv,laptop",
        "sandwich,hot dog",
        "cake,donut",
        "orange,apple",
        "tie,scarf",
        "skis,snowboard",
        "dining table,table-merged,counter",
        "wall-brick,wall-other-merged,wall-stone,wall-tile,wall-wood,rock-merged",
        "floor-other-merged,floor-wood,rug-merged",
        "river,sea,water-other",
        "window-blind,window-other,curtain",
        "building-other-merged,house,roof",
        "road,pavement-merged,gravel,dirt-merged,platform,sand,playingfield",
        "grass-merged,playingfield",
        "mountain-merged,rock-merged",
        "food-other-merged,fruit,cake,donut,pizza,sandwich,hot dog,carrot,broccoli,apple,orange,banana",
        "cabinet-merged,shelf,counter,refrigerator",
        "blanket,towel,curtain,rug-merged,banner",
        "light,traffic light",
        "paper-merged,cardboard,book,banner",
        "fence-merged,net",
        "blouse,shirt,t-shirt,top,sweater,sweatshirt,hoodie,jumper,cardigan,vest,bodysuit,dress,romper",
        "jacket,coat,blazer,cape,cardigan,suit,vest,hoodie,sweater",
        "pants,jeans,leggings,tights,stockings,shorts,suit,romper,socks",
        "shoes,pumps,boots,heels,wedges,sandals,loafers,sneakers,flats",
        "glasses,sunglasses",
        "skirt,dress,shorts",
        "necklace,bracelet,ring,watch,accessories,belt,scarf",
    )
)

# Where a thing is likely to be: its absence is worth asking about when others of its group are present.
_SCENES = tuple(
    _names(group)
    for group in (
        (
            "person,bicycle,car,motorcycle,bus,truck,traffic light,stop sign,parking meter,fire hydrant,bench,umbrella,"
            "handbag,backpack,dog"
        ),
        "airplane,boat,train,bus,truck,car,person,suitcase",
        "cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,bird,teddy bear",
        "bottle,wine glass,cup,fork,knife,spoon,bowl,dining table,chair,vase",
        "banana,apple,orange,broccoli,carrot,sandwich,hot dog,pizza,donut,cake,bowl,dining table",
        "chair,couch,potted plant,bed,dining table,tv,book,clock,vase,remote,cat,dog,person,teddy bear",
        "laptop,mouse,remote,keyboard,cell phone,tv,book,chair,cup,scissors",
        "microwave,oven,toaster,sink,refrigerator,bowl,cup,bottle,knife,spoon",
        "toilet,sink,toothbrush,hair drier,bottle,cup",
        "frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,person",
        "tie,handbag,backpack,umbrella,suitcase,cell phone,person",
        "hat,bag,purse,belt,watch,sunglasses,scarf,necklace,socks,boots,dress,skirt,jeans,coat,jacket,shirt,gloves",
        (
            "sky-other-merged,grass-merged,tree-merged,mountain-merged,sea,sand,snow,road,building-other-merged,river,"
            "fence-merged,rock-merged"
        ),
    )
)

# Who somebody is, as captions tell it: words for the category `person`, used like categories of their own.
PEOPLE = frozenset({"person", "man", "woman", "boy", "girl"})

# Labels that are no answer to a question.
UNNAMEABLE = frozenset({"accessories", "skin", "food-other-merged", "platform", "light", "cardboard"})


def name(category: str) -> str:
    """The words for one of a category: `sky-other-merged` → `sky`."""
    if category in _STUFF_NAMES:
        return _STUFF_NAMES[category]
    for suffix in ("-merged", "-other", "-stuff"):
        category = category.removesuffix(suffix)
    return category


def synonyms(category: str) -> tuple[str, ...]:
    """Other words for one of a category, none where the usual one is the only good one."""
    return _SYNONYMS.get(category, ())


def plural(noun: str) -> str:
    """More than one of a noun of one or more words: `wine glass` → `wine glasses`."""
    if noun in _PLURALS or noun in _ALWAYS_PLURAL or noun in _MASS:
        return _PLURALS.get(noun, noun)
    if noun.endswith(("s", "sh", "ch", "x", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"


def is_plural(noun: str) -> bool:
    """Whether the noun for one takes a plural verb: "the scissors are"."""
    return noun in _ALWAYS_PLURAL


def is_mass(noun: str) -> bool:
    """Whether the noun cannot be counted: "the grass is", never "a grass"."""
    return noun in _MASS


def with_article(noun: str) -> str:
    """`a dog`, `an umbrella`; nothing before plurals and mass nouns."""
    if is_plural(noun) or is_mass(noun):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def confusable(first: str, second: str) -> bool:
    """Whether one category may be taken for the other, or is the other."""
    return first == second or any(first in group and second in group for group in _CONFUSABLE)


def share_scene(first: str, second: str) -> bool:
    """Whether two categories are often seen together."""
    return any(first in group and second in group for group in _SCENES)
