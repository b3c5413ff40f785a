"""The words around a mask: which questions can be asked, which ask for a mask, and composed answers."""

from __future__ import annotations

import re

from mllmseg.constants import NEW_TOKENS
from mllmseg.errors import DataError

# A question that starts like this asks to be shown something, whatever the language model would rather say.
_REFERRING = re.compile(
    r"(please |can you |could you )?"
    r"(segment|find|show|mark|highlight|outline|select|locate|point (at|to)|where (is|are))\b"
    r"|(the|a|an|this|that|these|those|all|every|each|both|any|my|your|his|her|their)\b[^?]*$",
    re.IGNORECASE,
)

# How an answer opens that says a thing is not there, whatever its question denies itself ("the one that is not red").
_DENIAL = re.compile(
    r"(?:(?:yes|no|sorry|well)\b\W*)?(?:there (?:is|are) |i (?:see|find|can see) |(?:it|this|that) is |they are |"
    r"(?:this|the) (?:picture|image|photo|scene) (?:shows|has|contains|holds) )?(?:no|not|nothing|none|nobody)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:no|not|nothing|none|nobody|never|neither|cannot)\b|n't\b", re.IGNORECASE)


def check_question(question: str) -> None:
    """Refuses what the language model must not read.

    Raises:
        DataError: the question is empty, no valid text, or holds a reserved token.
    """
    if not question.strip():
        raise DataError("the question is empty")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"the question {question!r} is not valid text ({error.reason})") from error
    reserved = [token for token in NEW_TOKENS if token in question]
    if reserved:
        raise DataError(f"the question {question!r} holds {', '.join(reserved)}, which has a meaning of its own here")


def is_referring(question: str) -> bool:
    """Whether a question names a thing ("the red cup", "find the cat") rather than asks about the picture."""
    return _REFERRING.match(question.strip()) is not None


def compose_answer(query: str, *, exists: bool) -> str:
    """A sentence that says what the decision is, naming the query as it was asked.

    Scored queries are decided without generating words: this sentence cannot contradict the mask.
    """
    quoted = f"“{query.strip()}”"
    return f"This is what fits {quoted}." if exists else f"I see nothing here that fits {quoted}."


def denies(answer: str, question: str) -> bool:
    """Whether an answer says that a thing is not there: it opens so, or negates more often than its question."""
    said, asked = (len(_NEGATION.findall(text)) for text in (answer, question))
    return said > asked or _DENIAL.match(answer.strip()) is not None


def agreeing_answer(answer: str, question: str, *, exists: bool) -> str:
    """An answer in the model's words where they say what was decided; otherwise the composed one.

    The decision is forced upon the model, which may go on as earlier answers did ("I see no cup" beside its mask).
    """
    silent = not any(letter.isalnum() for letter in answer)
    return compose_answer(question, exists=exists) if silent or denies(answer, question) == exists else answer
