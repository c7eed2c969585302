"""Pickles read as data: arrays, lists, tuples, dicts, strings and numbers are built, and nothing is ever called.

`pickletools` only takes the bytes apart; the short interpreter below puts the values together. So a pickle that names
any other function or class is refused before a line of it could run.
"""

from __future__ import annotations

import codecs
import math
import pickletools
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from alexnet.base.errors import AlexNetError

LIMIT = 2 << 30  # bytes of a file that is read
STEPS_AT_MOST = 4_000_000  # of a pickle: each may make an object of some hundred bytes
LONGEST_NAME = 500  # letters of a module and what is in it
# What counts for memory that a call makes anew. A file has a byte for each object and two for each pair, and may take
# four times its size.
OF_AN_OBJECT, OF_A_PAIR = 4, 8
NUMPY = re.compile(r"numpy(\.core|\._core)?(\.multiarray|\.numeric)?")
DTYPE = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248])")
TEXT = {"_codecs encode"}
DICTS = {"collections OrderedDict"}


@dataclass(eq=False)
class Inert:
    """An object of a class that we do not know, as what the file says of it; no code of that class is run."""

    kind: str  # module and name
    arguments: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)  # where it is a kind of dict


@dataclass(frozen=True)
class Calls:
    """What a kind of pickle may call beside plain data: by name, each made by us; and what a persistent id stands for.

    They raise ValueError, TypeError, IndexError or KeyError at arguments that are none of theirs.
    """

    functions: Mapping[str, Callable[..., Any]]
    persistent: Callable[[Any], Any]


def load(path: str | Path, objects: bool = False) -> Any:
    """The value in a pickle of any protocol; Python 2's strings come out as text, byte for byte (latin-1).

    With `objects`, instances of unknown classes become `Inert`; without, they are refused like every other call.
    """
    try:
        size = Path(path).stat().st_size
        if size > LIMIT:
            raise AlexNetError(
                f"{path} has {size:,} bytes, more than the {LIMIT:,} that are read; is it the right file?"
            )
        contents = Path(path).read_bytes()
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read ({error.strerror}); give a file that you may read.") from None
    return loads(contents, str(path), objects)


def loads(contents: bytes, name: str, objects: bool = False) -> Any:
    """The same of bytes; `name` says in errors what they are."""
    return read(BytesIO(contents), len(contents), name, objects)


def read(stream: IO[bytes], size: int, name: str, objects: bool = False, calls: Calls | None = None) -> Any:
    """The value that a pickle at the stream's place gives, from at most `size` bytes; the stream is behind it then."""
    machine = _Machine(objects, room=4 * size + (1 << 20), calls=calls)
    try:
        with warnings.catch_warnings(action="ignore"):  # of damaged strings, which are an error further on
            return machine.run(stream)
    except _Refused as refused:
        raise AlexNetError(
            f"{name} holds more than data ({refused!s:.200}), which is not run; give the file as its makers publish it."
        ) from None
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        said = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
        raise AlexNetError(f"{name} is not a whole pickle ({said}); copy it again.") from None


def numbers(value: Any) -> np.ndarray:
    """The value, if it is an array of numbers: lists would be copied, and a few bytes may name a list very often.

    Raises TypeError.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise TypeError(f"{what} stands where an array of numbers is needed")
    return value


class _Refused(Exception):
    """What the pickle asked for."""


class _Mark:
    """Where a run of items on the stack begins."""


@dataclass
class _Name:
    """A function or class, by name only."""

    kind: str

    def __post_init__(self) -> None:
        if len(self.kind) > LONGEST_NAME:
            raise ValueError(f"a name of {len(self.kind):,} letters")


@dataclass
class _Type:
    """An array's type: letters of NumPy, and the byte order that comes later."""

    code: str

    def dtype(self) -> np.dtype:
        if not DTYPE.fullmatch(self.code):
            raise _Refused(f"an array of type {self.code!r:.40}, not of numbers")
        return np.dtype(self.code)


@dataclass
class _Machine:
    objects: bool
    room: int  # bytes that arrays and converted strings may still take
    calls: Calls | None = None
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: IO[bytes]) -> Any:
        for _ in range(STEPS_AT_MOST):
            name, argument = _step(stream)
            if name == "STOP":
                return self.stack.pop()
            if name in LITERALS:
                self.stack.append(argument)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name]())
            elif name in PUTS:
                self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
            elif name in GETS:
                self.stack.append(self.memo[int(argument)])
            elif name in STEPS:
                STEPS[name](self, argument)
            elif self.objects and name in OF_OBJECTS:
                OF_OBJECTS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise _Refused(f"the instruction {name}")
        raise ValueError(f"it has more than {STEPS_AT_MOST:,} steps")

    def items(self) -> list[Any]:
        """Everything above the last mark, taken off with it."""
        at = len(self.stack) - 1
        while at >= 0 and not isinstance(self.stack[at], _Mark):
            at -= 1
        if at < 0:
            raise ValueError("a mark is missing")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def pop(self, count: int) -> tuple:
        if len(self.stack) < count:
            raise ValueError("it takes more than it has put")
        found = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return found

    def take(self, size: int) -> None:
        """Count memory that a call makes anew: a few bytes could ask for a long string any number of times."""
        self.room -= size
        if self.room < 0:
            raise _Refused("more memory than its size can need")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            return  # what a kind of list of another program's holds is of no use here
        if type(target) is not list:
            raise ValueError("a list was expected")
        target += items

    def put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target = target.items
        if type(target) is not dict or len(items) % 2:
            raise ValueError("a dict was expected")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Keys of one level only: hashing a deep one would need a deep stack.
            if not isinstance(key, str | bytes | int | float | None):
                if not self.objects:
                    raise _Refused(f"a dict key of type {type(key).__name__}")
                key = f"{getattr(key, 'kind', type(key).__name__)} {len(target)}"
            target[key] = value

    def call(self, function: Any, arguments: Any) -> None:
        """The few calls that plain data needs, each made by us and checked."""
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no name")
        kind, (module, _, name) = function.kind, function.kind.rpartition(" ")
        of_numpy = bool(NUMPY.fullmatch(module))
        if kind in TEXT and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            self.stack.append(self.bytes(arguments[0]))
        elif self.calls and kind in self.calls.functions:
            self.stack.append(self.calls.functions[kind](*arguments))
        elif kind in DICTS and len(arguments) < 2:
            self.stack.append({})
            pairs = arguments[0] if arguments else ()
            self.take(OF_A_PAIR * len(pairs))
            self.put([x for pair in pairs for x in (pair[0], pair[1])])
        elif kind in ("__builtin__ bytes", "builtins bytes") and arguments == ():
            self.stack.append(b"")
        elif of_numpy and name == "dtype":
            if not isinstance(arguments[0], str):  # lists of lists have no end as text
                raise ValueError(f"an array whose type is a {type(arguments[0]).__name__}")
            self.stack.append(_Type(arguments[0]))
        elif of_numpy and name == "_reconstruct":
            self.stack.append(np.empty(0))
        elif of_numpy and name == "scalar":
            value = np.frombuffer(self.bytes(arguments[1]), arguments[0].dtype())
            self.stack.append(value.reshape(()).item())
        elif of_numpy and name == "_frombuffer":
            array = np.empty(0)
            self.fill(array, arguments[2], arguments[1], arguments[3] == "F", arguments[0])
            self.stack.append(array)
        elif kind in ("copy_reg _reconstructor", "copyreg _reconstructor") and isinstance(arguments[0], _Name):
            self.make(arguments[0].kind, ())
        else:
            self.make(kind, arguments)

    def make(self, kind: str, arguments: tuple) -> None:
        if not self.objects:
            raise _Refused(f"a call of {kind.replace(' ', '.')}")
        self.stack.append(Inert(kind.replace(" ", "."), arguments))

    def build(self) -> None:
        target, state = self.stack[-2], self.stack.pop()
        if isinstance(target, np.ndarray):
            _, shape, kind, fortran, data = state
            self.fill(target, shape, kind, fortran, data)
        elif isinstance(target, _Type):
            target.code = (state[1] if state[1] in ("<", ">") else "") + target.code.lstrip("<>|=")
        elif isinstance(target, Inert):
            target.state = state
        elif self.objects and not isinstance(target, _Name):
            return  # what a dict or tensor carries beside its values
        else:
            raise _Refused(f"a change of a {type(target).__name__}")

    def fill(self, array: np.ndarray, shape: tuple, kind: Any, fortran: Any, data: Any) -> None:
        """Give the array its shape and numbers, in place, for it may have been referred to already."""
        if not isinstance(kind, _Type):
            raise ValueError("an array without a type")
        sides = isinstance(shape, tuple) and len(shape) <= 32
        if not sides or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
            raise ValueError("an array whose shape is none")
        if kind.code.lstrip("|") in ("O", "O8") and isinstance(data, list):
            if math.prod(shape) != len(data):
                raise ValueError(f"an array of shape {shape} with {len(data):,} objects")
            self.take(OF_AN_OBJECT * len(data))
            array.__setstate__((1, tuple(shape), np.dtype("O"), bool(fortran), data))  # type: ignore[arg-type]
            return
        dtype, contents = kind.dtype(), self.bytes(data)
        if math.prod(shape) * dtype.itemsize != len(contents):
            raise ValueError(f"an array of shape {shape} with {len(contents):,} bytes")
        self.take(len(contents))
        array.__setstate__((1, tuple(shape), dtype, bool(fortran), contents))  # type: ignore[arg-type]

    def bytes(self, value: Any) -> bytes:
        """Bytes, or the text that stands for them, as Python 2 and protocol 2 have it."""
        if isinstance(value, str):
            self.take(len(value))
            return value.encode("latin-1")
        if not isinstance(value, bytes | bytearray):
            raise ValueError("bytes were expected")
        if isinstance(value, bytearray):
            self.take(len(value))
        return bytes(value)


def _step(stream: IO[bytes]) -> tuple[str, Any]:
    """The next instruction by name, and what the file says beside it."""
    code = stream.read(1)
    if code not in INSTRUCTIONS:
        raise ValueError(f"the byte {code.hex()}, which is no instruction" if code else "it has no end")
    one = INSTRUCTIONS[code]
    if one.name == "STRING":  # of Python 2, where any byte may stand; pickletools takes ASCII alone
        line = stream.readline()
        if len(line) < 3 or line[-1:] != b"\n" or line[0] not in b"'\"" or line[-2] != line[0]:
            raise ValueError("text without its quotes")
        return one.name, codecs.escape_decode(line[1:-2])[0].decode("latin-1")
    return one.name, one.arg.reader(stream) if one.arg else None


def _stack_global(machine: _Machine, _: Any) -> None:
    module, name = machine.pop(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    machine.stack.append(_Name(f"{module} {name}"))


def _object(machine: _Machine, _: Any) -> None:
    kind, *arguments = machine.items()
    machine.call(kind, tuple(arguments))


def _instance(machine: _Machine, argument: str) -> None:
    machine.call(_Name(argument), tuple(machine.items()))


def _tuple(machine: _Machine, items: list[Any] | tuple) -> None:
    machine.stack.append(tuple(items))


def _persistent(machine: _Machine, _: Any) -> None:
    (given,) = machine.pop(1)
    if machine.calls is None:
        raise _Refused("something that is kept elsewhere")
    machine.stack.append(machine.calls.persistent(given))


def _new(machine: _Machine, _: Any) -> None:
    function, arguments, _named = machine.pop(3)
    machine.call(function, arguments)


def _dict(machine: _Machine, _: Any) -> None:
    items = machine.items()
    machine.stack.append({})
    machine.put(items)


INSTRUCTIONS: dict[bytes, Any] = {one.code.encode("latin-1"): one for one in pickletools.opcodes}
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "MARK": _Mark,
}  # fmt: skip
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "APPEND": lambda m, _: m.extend(list(m.pop(1))),
    "APPENDS": lambda m, _: m.extend(m.items()),
    "LIST": lambda m, _: m.stack.append(m.items()),
    "SETITEM": lambda m, _: m.put(list(m.pop(2))),
    "SETITEMS": lambda m, _: m.put(m.items()),
    "DICT": _dict,
    "TUPLE": lambda m, _: _tuple(m, m.items()),
    "TUPLE1": lambda m, _: _tuple(m, m.pop(1)),
    "TUPLE2": lambda m, _: _tuple(m, m.pop(2)),
    "TUPLE3": lambda m, _: _tuple(m, m.pop(3)),
    "POP": lambda m, _: m.pop(1),
    "POP_MARK": lambda m, _: m.items(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "GLOBAL": lambda m, argument: m.stack.append(_Name(argument)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda m, _: m.call(*m.pop(2)),
    "NEWOBJ": lambda m, _: m.call(*m.pop(2)),
    "OBJ": _object,
    "INST": _instance,
    "BUILD": lambda m, _: m.build(),
}
OF_OBJECTS: dict[str, Callable[[_Machine, Any], object]] = {
    "BINPERSID": _persistent,
    "NEWOBJ_EX": _new,
    "EMPTY_SET": lambda m, _: m.stack.append([]),
    "ADDITEMS": lambda m, _: m.extend(m.items()),
    "FROZENSET": lambda m, _: m.stack.append(m.items()),
}
