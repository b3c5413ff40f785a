"""A plan of the rules carried out: what is there is shown, what is not is explained."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mllmseg.agent.explain import Explanation, examine, explain
from mllmseg.agent.grammar import Plan
from mllmseg.agent.replies import coloured, describe
from mllmseg.agent.schemas import EditResult, Found, Measurement, Place, Result, Spoken
from mllmseg.agent.session import Mode, Offer
from mllmseg.agent.tools import Call


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
        names: masks that are to be called otherwise than what they were asked for by.
    """

    text: str
    show: tuple[str, ...] = ()
    topic: str = ""
    edit: str = ""
    offer: Offer | None = None
    command: str = ""
    keep: bool = False
    names: tuple[Offer, ...] = ()


# How many of its masks, counted from the first, an operation cannot do without.
_NEEDED = {"difference": 1, "intersection": 2}


@dataclass
class PlanRun:
    """A plan being carried out."""

    plan: Plan
    mode: Mode
    # The mask of each step: None where it is not there, or where the step makes none.
    masks: list[str | None] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    # Masks of the steps, and those of earlier messages that the plan shows again.
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
            else:
                yield from self._examine(query, result)
        elif call.tool == "pick" and isinstance(result, Found) and not result.exists:
            again = Call("segment", {"query": call.arguments["query"]})
            self.masks.pop()
            yield from self._take(again, (yield again))
        elif not isinstance(result, Found) or isinstance(result, Place):
            self.results.append(result)

    def _examine(self, query: str, found: Found) -> Generator[Call, Result, None]:
        """Whether what was found is what was asked; in lenient mode it is shown even so."""
        meant, doubt = yield from examine(query, found, one_of_several=self._is_excepted())
        self.masks[-1] = meant.mask
        if doubt is not None:
            self.explanations.append(doubt)
            meant = meant.model_copy(update={"phrase": doubt.phrase or meant.phrase})
            if self.mode is Mode.STRICT or doubt.candidate is None:
                self.masks[-1] = None
        self.by_mask[meant.mask] = meant

    def _is_excepted(self) -> bool:
        """Whether the current step is taken from others: of "the cups except the left one" there are several."""
        own = f"${len(self.masks)}"
        differences = (call.arguments for call in self.plan.steps if call.arguments.get("op") == "difference")
        return any(own in arguments["masks"][1:] for arguments in differences)

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
        # "Yes" to "a cup and an elephant" where only one is there would be wrong.
        partly = self.plan.intent == "exists" and self.explanations and shown
        called = {item.candidate: item.phrase for item in self.explanations}
        results = [_called(item, called) for item in self.results]
        if self.plan.intent == "colour":
            text = coloured(self.plan.text, [item for item in results if isinstance(item, Measurement)])
        else:
            text = describe("show" if partly else self.plan.intent, results or wanted)
        if self.plan.intent == "talk" and not shown and all(isinstance(item, Spoken) for item in self.results):
            # A rejection: what is marked would be taken for what it says is not there.
            rejects = any(isinstance(item, Spoken) and item.score > 0 for item in self.results)
            return Final(text, topic=self.plan.topic, keep=not rejects)
        explained = " ".join(item.text for item in self.explanations)
        if self.plan.intent == "others" and not any(found.share for found in wanted):  # none at all, or none but it
            return Final("I see no other one.", topic=self.plan.topic)
        if self.plan.intent == "exists" and self.explanations and not shown:
            explained = f"No. {explained}"
        candidates = [item for item in self.explanations if item.candidate is not None and item.candidate not in shown]
        offer = None
        if candidates and candidates[0].candidate is not None and self.mode is Mode.STRICT:
            offer = Offer(candidates[0].candidate, candidates[0].phrase)
            explained += " Shall I show that instead?"
        # A mask that is not what was asked for is not called so either, shown or offered.
        named = {*shown, *([offer.mask] if offer else [])}
        edits = [item.edit for item in self.results if isinstance(item, EditResult)]
        return Final(
            text=" ".join(part for part in (text, explained) if part),
            show=shown,
            topic=self.plan.topic,
            edit=edits[-1] if edits else "",
            offer=offer,
            names=tuple(Offer(item.candidate, item.phrase) for item in self.explanations if item.candidate in named),
        )


def _called(result: Result, names: Mapping[str | None, str]) -> Result:
    """A result about a mask that stands in for what was asked, under the name of what it is."""
    name = names.get(getattr(result, "mask", None))
    return result.model_copy(update={"phrase": name}) if name and hasattr(result, "phrase") else result
