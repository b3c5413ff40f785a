"""From a message to a plan, by rules alone: same words, same situation, same calls of tools."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator
from typing import Protocol

from mllmseg.agent.commands import RULES
from mllmseg.agent.edit_commands import EDIT_RULES
from mllmseg.agent.execution import Final, PlanRun
from mllmseg.agent.grammar import CLAUSE, NOTHING_MEANT, PRONOUN, Builder, Context, Plan
from mllmseg.agent.phrases import parse_phrase, singular
from mllmseg.agent.question_commands import QUESTIONS
from mllmseg.agent.replies import reasons
from mllmseg.agent.schemas import MAX_TEXT, Result
from mllmseg.agent.session import Session
from mllmseg.agent.small_talk import HELP, SMALL_TALK
from mllmseg.agent.tools import Call, found
from mllmseg.errors import MLLMSegError


class PlannerError(MLLMSegError):
    """A planner cannot go on (its endpoint is down, slow, or talks nonsense); another one takes over."""


class Planner(Protocol):
    """Decides on calls of tools. It yields a call and is sent its result, until it returns what to say.

    A tool's error is thrown into it; a planner that does not catch it ends the work on the message with that error.
    """

    name: str

    def work(self, message: str, session: Session) -> Generator[Call, Result, Final]:
        """Works on a message; `session` is as it was before it."""


def make_plan(message: str, context: Context = Context()) -> Plan:
    """The plan for a message."""
    message = " ".join(_said(message).split())
    if len(message) > MAX_TEXT:
        told = f"That message has {len(message):,} characters: say it in {MAX_TEXT:,} at most."
        return Plan("say", text=told, topic=context.topic)
    builder = Builder(context, (*EDIT_RULES, *SMALL_TALK, *QUESTIONS, *RULES))
    intent = ""
    for clause in CLAUSE.split(message):
        if not all(_is_punctuation(letter) for letter in clause):
            intent = builder.clause(clause)
    if any(re.fullmatch(PRONOUN, str(call.arguments.get("query", "")), re.IGNORECASE) for call in builder.steps):
        return Plan("say", text=NOTHING_MEANT, topic=context.topic)
    nameless = any(not call.arguments.get("query", "named") for call in builder.steps)  # "remove ," names nothing
    if not intent or nameless:
        return Plan("say", text="Say what to look for. " + HELP, topic=context.topic)
    topic = builder.topic or context.topic
    return Plan(intent, tuple(builder.steps), tuple(dict.fromkeys(builder.show)), builder.text, topic)


def _said(message: str) -> str:
    """A message without emoji and control characters, which name nothing; as it stands where nothing else is in it."""
    kept = "".join(" " if _is_ornament(letter) else letter for letter in message)
    return kept if any(letter.isalnum() for letter in kept) else message


def _is_ornament(letter: str) -> bool:
    emoji = letter > "\x7f" and unicodedata.category(letter) in ("So", "Sk")  # signs, and the tones of their skin
    return emoji or letter == "\ufe0f" or letter < " "


def _is_punctuation(letter: str) -> bool:
    return letter.isspace() or (letter.isascii() and not letter.isalnum()) or letter in "。？！…¿¡"


def context_of(session: Session) -> Context:
    """What a message is understood from."""
    before = session.previous.focus if session.previous is not None else ()
    own = tuple(name for name in before if session.mask(name).picture == session.current)
    # Another threshold may have taken away what "it" or "yes" would mean.
    focus, own = (tuple(name for name in names if not session.mask(name).is_below) for names in (session.focus, own))
    offered = session.offer is not None and not session.mask(session.offer.mask).is_below
    kinds = {singular(parse_phrase(session.mask(name).phrase).noun) for name in focus}
    return Context(focus, session.topic, offered, own, alike=len(kinds) < 2)


COMMANDS = ("undo", "reset", "hide")


class RulePlanner:
    """The local planner: no network, no chance."""

    name = "rules"

    def work(self, message: str, session: Session) -> Generator[Call, Result, Final]:
        """Works on a message."""
        plan = make_plan(message, context_of(session))
        if plan.intent in COMMANDS:
            return Final("", command=plan.intent)
        if plan.intent == "say":
            return Final(plan.text, keep=True, topic=session.topic)
        if plan.intent == "why":
            # "Yes" and "undo" took no step: what is asked about is the answer before.
            worked = [item for item in session.exchanges if item.trace.steps]
            return Final(reasons(worked[-1:]), keep=True, topic=session.topic, offer=session.offer)
        if plan.intent == "accept":
            assert session.offer is not None
            offer = session.offer
            return Final(f"Here is “{offer.phrase}”.", (offer.mask,), offer.phrase, names=(offer,))
        again = {name: found(session.mask(name)) for name in plan.show if not name.startswith("$")}
        run = PlanRun(plan, session.mode, by_mask=again)
        yield from run.steps()
        return run.final()
