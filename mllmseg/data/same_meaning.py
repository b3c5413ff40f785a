"""Whether one sentence may stand for another, decided by words alone and rather wrongly refused than wrongly accepted.

Both must say the same: things (a fridge is a refrigerator, dogs are no dog), sides, numbers, sizes, colours, relations
and negations, by whatever spelling of the table below; every other word must be in both. Words that carry no meaning
may come and go. What names one thing may be said in any order; of two things, or with a negation, the order must be the
same, too, or "the dog left of the cat" would stand for "the cat left of the dog".
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter

from mllmseg.constants import NEW_TOKENS
from mllmseg.data import words
from mllmseg.data.affordances import WORN
from mllmseg.data.datasets.coco_mini import COCO80

MAX_WORDS = 40
_TOKEN = re.compile(r"[a-z0-9]+(?:[-'’][a-z0-9]+)*")
# Where a row has several spellings, any may stand for any other.
_ROWS = (
    "leftmost,left-most,farthest left,furthest left,farthest to the left,furthest to the left,far left",
    "rightmost,right-most,farthest right,furthest right,farthest to the right,furthest to the right,far right",
    "topmost,uppermost,highest",
    "bottommost,lowermost,lowest",
    "middle,center,centre,central,in the middle,in the center,in the centre,at the center,at the centre",
    "on,onto,upon,atop,on top of",
    "in,inside,within,into,inside of",
    "above,over",
    "below,under,underneath,beneath",
    "near,nearby,beside,next to,close to,alongside",
    "nearest,closest,nearest to,closest to",
    "in front of",
    "behind",
    "between",
    "with,has,have,having",
    "largest,biggest",
    "larger,bigger",
    "large,big",
    "smallest,tiniest,littlest",
    "smaller,tinier,littler",
    "small,tiny,little",
    "gray,grey",
    "all,every,each,all of,each of,every one of",
    "except,except for,excluding,but,other than,apart from,all but",
    "not,no",
    "without,lacking",
    "neither",
    "nor",
    "never",
    "none",
    "one of",
    "two,both,pair of,both of",
)
_SIDES = (("left", "left-hand"), ("right", "right-hand"), ("top", "upper"), ("bottom", "lower"))
_BEFORE_A_SIDE = ("", "on the ", "to the ", "at the ", "in the ")
_AFTER_A_SIDE = ("", " side", " hand side")
# They may come and go. Of verbs only what asks: "pointing" is something people do.
_EMPTY = (
    "a,an,the,this,that,these,those,which,who,whom,there,here,is,are,was,were,be,been,being,am,i,me,we,us,you,my,your,"
    "can,could,would,will,shall,may,please,kindly,show,find,segment,mark,highlight,locate,select,identify,where,what,"
    "see,seen,visible,shown,want,need,mean,do,does,did,i'd like,would like,i'd,i'm,i'll,where's,that's,it's,there's,"
    "thing,things,of,from,to,at,for,looking for,point at,point to,point out,in the picture,in this picture,"
    "in the photo,in this photo,in the image,in this image,of the picture,of the photo,of the image,in the scene,"
    "located,situated,placed,positioned"
)


def problem(text: str, other: str) -> str | None:
    """Why a rephrasing cannot stand for a text, or None where it can."""
    if not other or len(other.split()) > MAX_WORDS:
        return "empty or too long"
    if re.search(r"[\n():;]", other) or any(token in other for token in NEW_TOKENS):
        return "not only a description"
    if _TOKEN.findall(text.lower()) == _TOKEN.findall(other.lower()):
        return "the same words"
    said, again = said_of(text), said_of(other)
    if Counter(said) != Counter(again):
        return "says more, less or something else"
    if said != again and (sum(item[0] == "thing" for item in said) > 1 or _DENIALS & set(said)):
        return "says it in another order, of several things"
    return None


def said_of(text: str) -> list[tuple[str, str]]:
    """What a text says, in its order: (kind, word), of each spelling the first, without words that carry no meaning."""
    tokens = [token for raw in _TOKEN.findall(text.lower().replace("’", "'")) for token in _split(raw)]
    table, longest = _table(), _longest()
    said, place = [], 0
    while place < len(tokens):
        for length in range(min(longest, len(tokens) - place), 0, -1):
            found = table.get(" ".join(tokens[place : place + length]))
            if found is not None:
                break
        else:
            length, found = 1, ("word", _stem(tokens[place]))
        place += length
        if found[0] != "empty":
            said.append(found)
    if ("said", "all") in said:  # every dog is all the dogs
        said = [(kind, word.removesuffix(_SEVERAL)) for kind, word in said]
    return said


_SEVERAL = ", several"
_DENIALS = {("said", word) for word in ("not", "without", "except", "neither", "nor", "never", "none")}


def _split(token: str) -> tuple[str, ...]:
    """A token in parts: "isn't" is "is" and "not"; what is somebody's stands apart."""
    if token.endswith("n't"):
        return token[:-3], "not"
    if token.endswith("'s") and token not in _table():
        return token[:-2], "'s"
    return (token,)


def _stem(word: str) -> str:
    return re.sub(r"(.)\1$", r"\1", re.sub(r"(ing|ed|es|s)$", "", word)) if len(word) > 3 else word


@functools.cache
def _table() -> dict[str, tuple[str, str]]:
    """Spelling → (kind, first spelling)."""
    table = dict.fromkeys(_EMPTY.split(","), ("empty", ""))
    nouns: dict[str, set[str]] = {}
    for category in sorted(COCO80 | WORN | words.PEOPLE):
        for noun in (words.name(category), *words.synonyms(category)):
            nouns.setdefault(noun, set()).add(words.name(category))
    for noun, names in nouns.items():
        name = names.pop() if len(names) == 1 else noun  # a kid is a boy or a girl
        many = words.plural(noun)
        table |= dict.fromkeys((many, f"{noun}s"), ("thing", name + _SEVERAL if many != noun else name))
        table[noun] = ("thing", name)
    for row in _ROWS:
        first, *others = row.split(",")
        table |= dict.fromkeys((first, *others), ("said", first))
    for spellings in _SIDES:
        for before, spelling, after in itertools.product(_BEFORE_A_SIDE, spellings, _AFTER_A_SIDE):
            table[f"{before}{spelling}{after}"] = ("said", spellings[0])
    for number, (word, order) in enumerate(zip(words.NUMBERS, words.ORDINALS, strict=True), 1):
        ending = {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
        table |= dict.fromkeys((order, f"{number}{ending}", f"number {number}", f"number {word}"), ("said", order))
        if number > 1:
            table |= dict.fromkeys((word, str(number)), ("said", word))
    return table


@functools.cache
def _longest() -> int:
    """How many words a spelling may have."""
    return max(len(spelling.split()) for spelling in _table())
