"""The words around a mask: composed answers, and which questions ask for a mask in the first place."""

from __future__ import annotations

import re

# A question that starts like this asks to be shown something, whatever the language model would rather say.
_REFERRING = re.compile(
    r"(please |can you |could you )?"
    r"(segment|find|show|mark|highlight|outline|select|locate|point (at|to)|where (is|are))\b"
    r"|(the|a|an|this|that|these|those|all|every|each|both|any|my|your|his|her|their)\b[^?]*$",
    re.IGNORECASE,
)


def is_referring(question: str) -> bool:
    """Whether a question names a thing ("the red cup", "find the cat") rather than asks about the picture."""
    return _REFERRING.match(question.strip()) is not None


def compose_answer(query: str, *, exists: bool) -> str:
    """A sentence that says what the decision is, naming the query as it was asked.

    Scored queries are decided without generating words: this sentence cannot contradict the mask.
    """
    quoted = f"“{query.strip()}”"
    return f"This is what fits {quoted}." if exists else f"I see nothing here that fits {quoted}."
