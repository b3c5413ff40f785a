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
