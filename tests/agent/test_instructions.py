"""The benchmark's conversations held with an oracle: without a model, whatever goes wrong is the agent's fault."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import instruction_set  # noqa: E402
import oracle  # noqa: E402

sys.path.remove(str(BENCHMARKS))

CONVERSATIONS = instruction_set.read_instructions()


def messages(conversation: instruction_set.Conversation) -> tuple[str, ...]:
    return tuple(turn.say for turn in conversation.turns)


@pytest.mark.parametrize(
    "conversation", CONVERSATIONS, ids=lambda item: f"{item.photo.name}: {' / '.join(messages(item))}"
)
def test_plans_are_right(conversation: instruction_set.Conversation) -> None:
    outcome = oracle.hold_with_oracle(conversation)
    assert outcome.right, outcome.faults


def test_the_set_is_large_and_varied() -> None:
    kinds = Counter(conversation.kind for conversation in CONVERSATIONS)
    assert sum(kinds.values()) >= 60
    assert len(kinds) >= 10
    assert min(kinds.values()) >= 4
    assert {conversation.photo.name for conversation in CONVERSATIONS} == {
        path.stem for path in (BENCHMARKS.parent / "examples").glob("*.jpg")
    }


def test_every_turn_but_openings_is_checked() -> None:
    """A conversation that nothing could fail would be no test."""
    for conversation in CONVERSATIONS:
        last = conversation.turns[-1]
        found = last.shows is not None or last.counts is not None or last.talks is not None
        assert found or last.says or last.changed or last.point or last.edit


def test_a_wrong_answer_is_noticed() -> None:
    """The same conversations with a segmenter that finds both halves of the picture in every phrase: most must fail."""

    class Yes(oracle.Oracle):
        def _meant(self, query: str, *, checking: bool) -> np.ndarray:
            halves = self.photo.region("all").copy()
            halves[:, halves.shape[1] // 2] = False
            return halves

        def fork(self) -> Yes:
            return Yes(self.photo)

    right = 0
    for conversation in CONVERSATIONS:
        agent = instruction_set.Agent(Yes(conversation.photo))
        right += instruction_set.hold(agent, agent.open(conversation.photo.image), conversation).right
    assert right < len(CONVERSATIONS) / 5
