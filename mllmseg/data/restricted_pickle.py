"""Reads pickles from the internet without running what they say.

RefCOCO's and its descendants' references come as pickles written by Python 2. The stock unpickler calls whatever a file
names; this one knows plain containers, numbers (numpy's scalars too) and strings, and refuses the rest before anything
of it is imported or called.
"""

from __future__ import annotations

import collections
import os
import pathlib
import pickle
from typing import Any, NoReturn

import numpy as np

from mllmseg.errors import DataError

_NUMBER_KINDS = "biuf"


class _NumpyType:
    """Stands in for numpy.dtype: numbers and bools only, never objects."""

    def __init__(self, code: str, *_: object) -> None:
        self.type = np.dtype(str(code))
        if self.type.kind not in _NUMBER_KINDS:
            raise pickle.UnpicklingError(f"numpy type '{code}' is no number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, ...): the rest describes fields and shapes, which numbers have none of.
        if isinstance(state[1], str) and state[1] in "<>":
            self.type = self.type.newbyteorder("<" if state[1] == "<" else ">")


def _numpy_scalar(kind: _NumpyType, data: bytes | str) -> int | float | bool:
    """Stands in for numpy's constructor of scalars, and gives Python's own number."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    number: int | float | bool = np.frombuffer(raw, dtype=kind.type, count=1)[0].item()
    return number


def _bytes_of_text(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for _codecs.encode, by which old protocols write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding '{encoding}' is not expected here")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in
       {"set": set, "frozenset": frozenset, "list": list, "dict": dict, "tuple": tuple}.items()},
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): _NumpyType,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): _bytes_of_text,
}  # fmt: skip


class _Refused(pickle.UnpicklingError):
    """The file names something that is not plain data."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"it names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("it refers to objects outside the file")


def load_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The file's content, of protocol 0 to 5.

    Byte strings of Python 2 are read as UTF-8, and where they are not valid UTF-8 as Latin-1, which takes every byte.

    Raises:
        DataError: the file is missing, damaged, or names anything but plain containers, numbers and strings; nothing
            that it names has been imported or run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for encoding in ("utf-8", "latin1"):
        try:
            with path.open("rb") as stream:
                return _PlainUnpickler(stream, encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except _Refused as error:
            raise DataError(
                f"{path}: refused: {error}, and data files hold only lists, dicts, numbers and strings; get the file "
                "from its authors again"
            ) from error
        except Exception as error:  # damaged pickles raise nearly anything
            raise DataError(f"{path}: not a readable pickle ({error}); download it again") from error
    raise DataError(f"{path}: not a readable pickle; download it again")
