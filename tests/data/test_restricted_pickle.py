"""Pickles of every protocol are read; what they would run is not run."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mllmseg.data.restricted_pickle import load_plain_pickle
from mllmseg.errors import DataError

PLAIN = [
    {"ref_id": 1, "ann_id": [-1], "split": "val", "score": 0.5, "ok": True, "no": None, "text": "café", "t": (1, 2)}
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [PLAIN, {1, 2}, frozenset("a"), collections.OrderedDict(a=1), b"\xff\x00", 10**40], ids=repr
)
def test_plain_data_of_every_protocol(tmp_path: Path, protocol: int, value: object) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(path) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "number", [np.int64(581857), np.float32(0.25), np.bool_(True), np.array([7], ">i4")[0]], ids=lambda n: str(n.dtype)
)
def test_numpy_numbers_become_pythons(tmp_path: Path, protocol: int, number: np.generic) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([number], protocol))
    (read,) = load_plain_pickle(path)
    assert read == number.item()
    assert type(read) is type(number.item())


def test_strings_of_python_2(tmp_path: Path, miniatures: ModuleType) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(
        miniatures.python2_pickle([{"sent": "café", "long": "x" * 300, "n": 3, "none": None, "no": False}])
    )
    assert load_plain_pickle(path) == [{"sent": "café", "long": "x" * 300, "n": 3, "none": None, "no": False}]
    path.write_bytes(b"\x80\x02U\x04caf\xe9.")  # not UTF-8, so Latin-1
    assert load_plain_pickle(path) == "café"


class _Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_raises_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "refs.p"
    calls = [
        _Call(os.system, f"touch {trace}"),
        _Call(subprocess.check_output, ["touch", str(trace)]),
        _Call(eval, f"open({str(trace)!r}, 'w')"),
        _Call(open, str(trace), "w"),
        _Call(getattr, trace, "touch"),
    ]
    for call in calls:
        path.write_bytes(pickle.dumps([PLAIN, call], protocol))
        with pytest.raises(DataError, match=r"refs.p: refused: it names"):
            load_plain_pickle(path)
    path.write_bytes(pickle.dumps(_Call(os.system, f"touch {trace}"), protocol))
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the same file does run where nothing holds it back"


def test_nothing_a_file_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "payload_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "refs.p").write_bytes(b"cpayload_module\nrun\n.")
    with pytest.raises(DataError, match=r"payload_module\.run"):
        load_plain_pickle(tmp_path / "refs.p")
    assert "payload_module" not in sys.modules


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a pickle",
        pickle.dumps(PLAIN)[:-5],
        b"\x80\x09.",
        b"(lp0\nP1\n.",
        pickle.dumps(np.array([1])),
        pickle.dumps(np.datetime64("2020-01-01")),
        pickle.dumps(_Call(__import__("codecs").encode, "x", "rot13")),
    ],
    ids=["empty", "text", "cut", "protocol", "persistent", "array", "datetime", "codec"],
)
def test_other_files_are_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(raw)
    with pytest.raises(DataError, match=r"refs\.p"):
        load_plain_pickle(tmp_path / "refs.p")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"refs\.p: no such file"):
        load_plain_pickle(tmp_path / "refs.p")
