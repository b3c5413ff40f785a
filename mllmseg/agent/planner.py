"""From a message to a plan by rules alone, and a plan carried out: same words, same situation, same calls of tools."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mllmseg.agent.commands import RULES
from mllmseg.agent.edit_commands import EDIT_RULES
from mllmseg.agent.explain import Explanation, contradicted, explain
from mllmseg.agent.grammar import CLAUSE, Builder, Context, Plan
from mllmseg.agent.phrases import contrasts, parse_phrase
from mllmseg.agent.replies import describe, reasons
from mllmseg.agent.schemas import EditResult, Found, Place, Result, Spoken, Verdict
from mllmseg.agent.session import Mode, Offer, Session
from mllmseg.agent.small_talk import HELP, SMALL_TALK
from mllmseg.agent.tools import Call
from mllmseg.errors import MLLMSegError


class PlannerError(MLLMSegError):
    """A planner cannot go on (its endpoint is down, slow, or talks nonsense); another one takes over."""


@dataclass(frozen=True)
class Final:
    """The end of a planner's work on a message.

    Attributes:
        text: the answer.
        show: ids of the masks to show.
        topic: the phrase last asked for.
        edit: id of the edited picture to show, "" for none.
        offer: what was found but is not shown.
        command: "undo", "reset" or "hide" where the session itself is meant.
        keep: show again what was shown before, as an answer in words does.
    """

    text: str
    show: tuple[str, ...] = ()
    topic: str = ""
    edit: str = ""
    offer: Offer | None = None
    command: str = ""
    keep: bool = False


class Planner(Protocol):
    """Decides on calls of tools. It yields a call and is sent its result, until it returns what to say.

    A tool's error is thrown into it; a planner that does not catch it ends the work on the message with that error.
    """

    name: str

    def work(self, message: str, session: Session) -> Generator[Call, Result, Final]:
        """Works on a message; `session` is as it was before it."""


def make_plan(message: str, context: Context = Context()) -> Plan:
    """The plan for a message."""
    message = " ".join(message.split())
    builder = Builder(context, (*EDIT_RULES, *SMALL_TALK, *RULES))
    intent = ""
    for clause in CLAUSE.split(message):
        if not all(_is_punctuation(letter) for letter in clause):
            intent = builder.clause(clause)
    nameless = any(not call.arguments.get("query", "named") for call in builder.steps)  # "remove ," names nothing
    if not intent or nameless:
        return Plan("say", text="Say what to look for. " + HELP, topic=context.topic)
    topic = builder.topic or context.topic
    return Plan(intent, tuple(builder.steps), tuple(dict.fromkeys(builder.show)), builder.text, topic)


def _is_punctuation(letter: str) -> bool:
    return letter.isspace() or (letter.isascii() and not letter.isalnum()) or letter in "。？！…¿¡"


def context_of(session: Session) -> Context:
    """What a message is understood from."""
    before = session.previous.focus if session.previous is not None else ()
    own = tuple(name for name in before if session.mask(name).picture == session.current)
    return Context(session.focus, session.topic, session.offer is not None, own)


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
            return Final(reasons(session.exchanges[-1:]), keep=True, topic=session.topic, offer=session.offer)
        if plan.intent == "accept":
            assert session.offer is not None
            return Final(f"Here is “{session.offer.phrase}”.", (session.offer.mask,), session.offer.phrase)
        run = _Run(plan, session.mode)
        yield from run.steps()
        return run.final()


# How many of its masks, counted from the first, an operation cannot do without.
_NEEDED = {"difference": 1, "intersection": 2}


@dataclass
class _Run:
    """A plan being carried out."""

    plan: Plan
    mode: Mode
    # The mask of each step: None where it is not there, or where the step makes none.
    masks: list[str | None] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    by_mask: dict[str, Found] = field(default_factory=dict)
    # Of steps that found nothing: the number and its empty mask.
    empty: dict[int, str] = field(default_factory=dict)

    def steps(self) -> Generator[Call, Result, None]:
        """Every step whose target is there, and what must be asked about those that are not."""
        for call in self.plan.steps:
            resolved = self._resolve(call)
            if resolved is None:
                self.masks.append(None)
                continue
            result = yield resolved
            yield from self._take(resolved, result)

    def _take(self, call: Call, result: Result) -> Generator[Call, Result, None]:
        mask = getattr(result, "mask", None)
        self.masks.append(mask)
        if isinstance(result, Found):
            self.by_mask[result.mask] = result
        if isinstance(result, Place) and result.missing:
            yield from self._explain(result.missing)
        elif call.tool == "segment" and isinstance(result, Found):
            query = call.arguments["query"]
            if not result.exists:
                self.empty[len(self.masks) - 1] = result.mask
                yield from self._explain(query)
            elif self.mode is Mode.STRICT and contrasts(parse_phrase(query)):
                verdict = yield Call("verify", {"mask": result.mask, "query": query, "closely": False})
                if isinstance(verdict, Verdict) and verdict.rival:
                    self.explanations.append(contradicted(query, verdict.rival, result.mask))
                    self.masks[-1] = None
        elif not isinstance(result, Found) or isinstance(result, Place):
            self.results.append(result)

    def _explain(self, query: str) -> Generator[Call, Result, None]:
        explanation = yield from explain(query)
        self.explanations.append(explanation)
        lenient = self.mode is Mode.LENIENT and self.plan.intent != "exists"
        # In lenient mode the closest candidate stands in, and the answer says that it does.
        stands_in = lenient and self.plan.steps[len(self.masks) - 1].tool == "segment"
        self.masks[-1] = explanation.candidate if stands_in else None

    def _name(self, name: str) -> str | None:
        return self.masks[int(name[1:]) - 1] if name.startswith("$") else name

    def _missing(self, name: str) -> str | None:
        """The empty mask of a step that found nothing."""
        return self.empty.get(int(name[1:]) - 1) if name.startswith("$") else None

    def _resolve(self, call: Call) -> Call | None:
        """The call with ids for names, without masks that are not there; None where nothing is left to work on."""
        arguments: dict[str, Any] = dict(call.arguments)
        for key in ("mask", "to"):
            if key in arguments:
                arguments[key] = self._name(arguments[key])
                if arguments[key] is None:
                    return None
        if "masks" in arguments:
            names = [self._name(name) for name in arguments["masks"]]
            if arguments["op"] == "complement" and self.plan.intent == "show":
                # Everything except what is not there is everything: the mask of the missing thing is empty.
                names = [
                    name or self._missing(written) for name, written in zip(names, arguments["masks"], strict=True)
                ]
            needed = names[: _NEEDED.get(arguments["op"], 0)]
            arguments["masks"] = [name for name in names if name is not None]
            if not arguments["masks"] or None in needed:
                return None
        return Call(call.tool, arguments)

    def final(self) -> Final:
        """What to say and to show."""
        shown = tuple(dict.fromkeys(name for name in map(self._name, self.plan.show) if name is not None))
        shown = tuple(name for name in shown if name not in self.by_mask or self.by_mask[name].exists)
        wanted = [self.by_mask[name] for name in map(self._name, self.plan.show) if name in self.by_mask]
        text = describe(self.plan.intent, self.results or wanted)
        if self.plan.intent == "talk" and not shown and all(isinstance(item, Spoken) for item in self.results):
            return Final(text, topic=self.plan.topic, keep=True)
        explained = " ".join(item.text for item in self.explanations)
        if self.plan.intent == "exists" and self.explanations and not shown:
            explained = f"No. {explained}"
        candidates = [item for item in self.explanations if item.candidate is not None and item.candidate not in shown]
        offer = None
        if candidates and candidates[0].candidate is not None and self.mode is Mode.STRICT:
            offer = Offer(candidates[0].candidate, candidates[0].phrase)
            explained += " Shall I show that instead?"
        edits = [item.edit for item in self.results if isinstance(item, EditResult)]
        return Final(
            text=" ".join(part for part in (text, explained) if part),
            show=shown,
            topic=self.plan.topic,
            edit=edits[-1] if edits else "",
            offer=offer,
        )
