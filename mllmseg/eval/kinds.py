"""Results by kind of sentence: a benchmark of templates and people's sentences is two benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mllmseg.data.referring import Query
from mllmseg.eval.evaluation_report import MODES, KindResult, score_mode
from mllmseg.eval.metrics import Sample
from mllmseg.eval.metrics.bootstrap import REPEATS
from mllmseg.eval.scoring import Answers

ALL = "all sentences"
# Own data may name as many kinds as it has sentences; nobody reads so many rows.
MOST_KINDS = 40


def group_by_kind(queries: Sequence[Query]) -> dict[str, list[str]]:
    """Kind → query ids: `all sentences`, then kinds by name, a part (`template/left`) after its whole."""
    kinds = Counter(part for query in queries for part in wholes(query.kind))
    kept = {kind for kind, _ in kinds.most_common(MOST_KINDS)}
    groups = {ALL: [query.id for query in queries]}
    for kind in sorted(kept, key=lambda kind: kind.split("/")):
        groups[kind] = [query.id for query in queries if kind in wholes(query.kind)]
    return groups


def wholes(kind: str) -> list[str]:
    """`a/b` → `a`, `a/b`; nothing for no kind."""
    parts = kind.split("/") if kind else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def score_kinds(
    queries: Sequence[Query], answers: Mapping[str, Answers], *, repeats: int = REPEATS
) -> list[KindResult]:
    """Scores each kind by itself, and boxes where only these are known.

    Args:
        queries: of the dataset.
        answers: mode or baseline → its answers.
        repeats: how many resamplings.

    Returns:
        Nothing where all there is to say is in the table of all sentences: no kinds, no boxes, no baselines.
    """
    groups = group_by_kind(queries)
    boxed = {mode: found.boxed for mode, found in answers.items() if found.boxed}
    if len(groups) == 1 and not boxed and answers.keys() <= MODES.keys():
        return []
    results = []
    for name, ids in groups.items():
        every = {mode: _chosen(found.samples, ids) for mode, found in answers.items()}
        if any(every.values()):
            results.append(_score(name, every, repeats, boxed=False))
    if boxed:
        results.append(_score("targets known by a box", boxed, repeats, boxed=True))
    return results


def _chosen(samples: Mapping[str, Sample], ids: Sequence[str]) -> dict[str, Sample]:
    return {key: samples[key] for key in ids if key in samples}


def _score(name: str, samples: Mapping[str, Mapping[str, Sample]], repeats: int, *, boxed: bool) -> KindResult:
    scorers = {mode: ("classic", "gres", "calibration") if mode in MODES else ("classic",) for mode in samples}
    return KindResult(
        name,
        {mode: score_mode(mode, found, scorers=scorers[mode], repeats=repeats) for mode, found in samples.items()},
        boxed,
    )
