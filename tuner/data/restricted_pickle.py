"""Pickles of bytes, numbers, lists and numpy arrays, read without running anything that they name.

An unpickler calls whatever a pickle names, so an untrusted one runs code. Here only a few names of numpy are known, and
even those stand for plain records of their arguments: numpy never sees the pickle. Python's own unpickler (and not the
one in C, which allocates what a damaged pickle asks for) executes a list of opcodes that holds nothing but data.
"""

import io
import math
import pickle
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


class RefusedPickleError(Exception):
    """A pickle that is damaged or holds something else than data; the message says what, in a few words on one line."""


class PickledType:
    """A numpy dtype as pickled: its short name, such as u1."""

    __slots__ = ("name",)

    def __init__(self, name: Any, *_: Any) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(text, str):
            raise RefusedPickleError("holds an array of no type")
        self.name = text

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("|", "<", b"|", b"<"):
            raise RefusedPickleError("holds an array that is not little endian")


class PickledArray:
    """A numpy array as pickled: type, shape and bytes, which `values` checks and puts together."""

    __slots__ = ("_data", "_kind", "_shape")

    def __init__(self, *_: Any) -> None:
        self._kind, self._shape, self._data = None, (0,), b""  # type: Any, Any, Any

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedPickleError("holds a damaged array")
        _, self._shape, self._kind, _, self._data = state

    def values(self, *names: str) -> NDArray[Any]:
        """Return the array, one-dimensional; RefusedPickleError where it is damaged or of none of the types `names`."""
        if not isinstance(self._kind, PickledType) or self._kind.name not in names:
            raise RefusedPickleError(f"holds an array whose type is none of {', '.join(names)}")
        size = int(self._kind.name[1:])
        whole = isinstance(self._shape, tuple) and all(type(side) is int and side >= 0 for side in self._shape)
        if not whole or not isinstance(self._data, bytes) or math.prod(self._shape) * size != len(self._data):
            raise RefusedPickleError("holds an array whose bytes do not fit its shape")
        return np.frombuffer(self._data, f"<{self._kind.name}")


class _Reconstructed(PickledArray):
    """`numpy._core.multiarray._reconstruct`: an empty array, filled by its state."""

    __slots__ = ()


class _FromBuffer(PickledArray):
    """`numpy._core.numeric._frombuffer`: an array of protocol 5."""

    __slots__ = ()

    def __init__(self, data: Any, kind: Any, shape: Any, *_: Any) -> None:
        self.__setstate__((1, shape, kind, False, data))


class _Scalar(PickledArray):
    """`numpy._core.multiarray.scalar`: a single number."""

    __slots__ = ()

    def __init__(self, kind: Any, data: Any) -> None:
        self.__setstate__((1, (1,), kind, False, data))


class _Encoded:
    """`_codecs.encode`: how Python 3 writes bytes for Python 2, as latin-1."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if encoding not in ("latin1", "latin-1"):
            raise RefusedPickleError("encodes text otherwise than as latin-1")
        return str.encode(text, "latin1")


_STAND_INS: Final[dict[tuple[str, str], type]] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledType,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstructed,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _Encoded,
}

_OPCODES: Final = b"".join((
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4,
    pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8,
    pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE,
    pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET,
))  # fmt: skip
"""No dicts and sets (hashing nested tuples can take for ever), no instances, nothing persistent or out of band."""


class _Unpickler(pickle._Unpickler):
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        known = _STAND_INS.get((module.replace("numpy.core.", "numpy._core.", 1), name))
        if known is None:
            raise RefusedPickleError(f"names {f'{module}.{name}'[:80]!r}, which is no data")
        return known

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (PickledArray, PickledType)):
            raise RefusedPickleError("sets the state of something that is no array")
        super().load_build()  # type: ignore[misc]

    dispatch = {  # noqa: RUF012 the base class declares it so
        **{opcode: pickle._Unpickler.dispatch[opcode] for opcode in _OPCODES},
        # Read as bytes: a bytearray would be allocated before it is known whether the file has that many.
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
        pickle.BUILD[0]: load_build,  # type: ignore[dict-item]
    }


def read_plain_data(data: bytes) -> Any:
    """Return what a pickle of any protocol, written by Python 2 or 3, holds.

    That is bytes (also for the `str` of Python 2), str, int, bool, None, tuples and lists of those, and `PickledArray`
    for numpy arrays and numbers.

    Raises:
        RefusedPickleError: it is damaged or names anything but an array; nothing that it names has run.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except KeyError as error:
        reason = f"holds an operation that is no data ({str(error)[:20]})"
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
        AssertionError, MemoryError, RecursionError, struct.error,
    ) as error:  # fmt: skip
        reason = f"is damaged ({str(error)[:80].splitlines()[0] if str(error) else type(error).__name__})"
    raise RefusedPickleError(reason)
