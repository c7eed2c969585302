"""Files of torch.save (.pth, .pt, .ckpt, .bin): the pickle read as data, tensors described before any is read.

Of tensors there is only where their numbers lie. Namespaces, whole modules and other programs' objects are what the
file says of them; nothing in it is run. Both forms are read: the zip archive of today, and that of torch before 1.6.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from alexnet.base import restricted_pickle
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.base.restricted_pickle import Calls, Inert
from alexnet.base.text import counted
from alexnet.weights import state
from alexnet.weights.base import Lazy, Weights
from alexnet.weights.registry import Reader

ZIP = b"PK\x03\x04"
OLD = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # torch's number, in a pickle of its own
DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.qint8, "QUInt8Storage": torch.quint8, "QInt32Storage": torch.qint32,
}  # fmt: skip
BY_NAME = {f"torch {str(dtype).removeprefix('torch.')}": dtype for dtype in DTYPES.values()}
MOST_DIMENSIONS = 64
FEW = 1 << 16  # numbers that a file may expand from fewer
OTHERS = {  # of zip archives, by a member's name
    "code/": ("a program of TorchScript", "save the model's state_dict with torch.save and give that"),
    "constants.pkl": ("a program of TorchScript", "save the model's state_dict with torch.save and give that"),
    "archive_format": ("a program of torch.export (.pt2), which can hold code", "give the model that it was made from"),
    "models/": ("a program of torch.export (.pt2), which can hold code", "give the model that it was made from"),
    "serialized_exported_program.json": (
        "a program of torch.export (.pt2), which can hold code", "give the model that it was made from",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A run of `numel` numbers; `read(start, length)` gives bytes of it."""

    dtype: torch.dtype
    numel: int
    read: Callable[[int, int], bytes]


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as torch.save's do: a zip archive, or the pickle of torch before 1.6."""
    return head.startswith(ZIP) or is_old(head)


def is_old(head: bytes) -> bool:
    """Whether these are the first bytes of the form before torch 1.6, by any protocol; from 4 on there is a frame."""
    return head[:1] == b"\x80" and OLD in (head[2:][: len(OLD)], head[11:][: len(OLD)])


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a file of torch.save, however they are wrapped in it."""
    try:
        found = contents(file)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise AlexNetError(f"MODEL {file} is not a whole .pth file ({_short(error)}); copy it again.") from None
    return state.weights(file, found, hints)


def contents(file: Path) -> Any:
    """The value that was saved, with `Lazy` for tensors and `Inert` for objects."""
    with open(file, "rb") as opened:
        if is_old(opened.read(32)):
            opened.seek(0)
            return _old(file, opened)
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
    (pickled, root) = _pickle(file, members)
    if members[pickled].file_size > restricted_pickle.LIMIT:
        raise ValueError(f"its pickle has {members[pickled].file_size:,} bytes")

    def stored(kind: torch.dtype, key: str, numel: int) -> Storage:
        return Storage(kind, numel, lambda start, length: _member(file, f"{root}data/{key}", start, length))

    with zipfile.ZipFile(file) as archive:
        if f"{root}byteorder" in members:
            with archive.open(f"{root}byteorder") as word:
                order = word.read(8)
            if order != b"little":
                raise AlexNetError(
                    f"MODEL {file} was saved with the bytes of numbers in another order; save it on a PC."
                )
        with archive.open(pickled) as stream:
            return restricted_pickle.read(stream, members[pickled].file_size, f"MODEL {file}", True, calls(stored))


def _pickle(file: Path, members: Mapping[str, zipfile.ZipInfo]) -> tuple[str, str]:
    """The member that holds the pickle, and the folder within the archive before its name."""
    for part, (what, then) in OTHERS.items():
        if any(name.endswith(part) or (f"/{part}" in f"/{name}" and part.endswith("/")) for name in members):
            raise AlexNetError(f"MODEL {file} is {what}, which is not read as weights; {then}.")
    found = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise AlexNetError(
            f"MODEL {file} is a zip archive without weights of torch (it holds {counted(len(members), 'file')}, such "
            f"as {next(iter(members), 'none')!r:.60}); unpack it, and give the file of weights in it."
        )
    return found[0], found[0].removesuffix("data.pkl")


def _member(file: Path, name: str, start: int, length: int) -> bytes:
    """Some bytes of a member. Those before them are passed over, so that no length in the archive is trusted."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(name) as opened:
            opened.seek(start)
            return opened.read(length)
    except KeyError:
        raise AlexNetError(f"MODEL {file} lacks its member {name!r:.80}; copy it again.") from None


def _old(file: Path, opened: IO[bytes]) -> Any:
    """The form before torch 1.6: five pickles, then the storages one after the other."""
    size = file.stat().st_size
    keys: dict[str, torch.dtype] = {}
    places: dict[str, tuple[int, int]] = {}  # filled in when all is known

    def stored(kind: torch.dtype, key: str, numel: int) -> Storage:
        keys.setdefault(key, kind)

        def take(start: int, length: int) -> bytes:
            at, has = places.get(key, (0, 0))
            if start + length > has:
                raise AlexNetError(f"MODEL {file} ends within a tensor; copy it again.")
            with open(file, "rb") as again:
                again.seek(at + start)
                return again.read(length)

        return Storage(kind, numel, take)

    def one(with_calls: bool = False) -> Any:
        return restricted_pickle.read(opened, size, f"MODEL {file}", True, calls(stored) if with_calls else None)

    _, _, system = one(), one(), one()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise AlexNetError(f"MODEL {file} was saved with the bytes of numbers in another order; save it on a PC.")
    found, order = one(True), one()
    at = opened.tell()
    for key in order if isinstance(order, list) else ():
        opened.seek(at)
        count = int.from_bytes(opened.read(8), "little", signed=True)
        length = max(count, 0) * keys.get(str(key), torch.uint8).itemsize
        places[str(key)] = at + 8, min(length, max(0, size - at - 8))
        at += 8 + length
        if at > size:
            break
    return found


def calls(stored: Callable[[torch.dtype, str, int], Storage]) -> Calls:
    """What a pickle of tensors calls: each gives a `Lazy`; and its persistent ids, which are storages."""

    def storage(given: Any) -> Storage:
        if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage":
            raise ValueError("a reference to something that is no storage")
        _, kind, key, _, numel = given[:5]
        dtype = DTYPES.get(_name(kind).rpartition(" ")[2])
        if dtype is None or type(numel) is not int or numel < 0 or not isinstance(key, str | int):
            raise ValueError("a storage of an unknown type or size")
        return stored(dtype, str(key), numel)

    def tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: Any = None) -> Lazy:
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        kind = dtype or storage.dtype
        fits = len(shape) == len(stride) and len(shape) <= MOST_DIMENSIONS
        if not fits or not all(type(n) is int and abs(n) < 1 << 63 for n in (offset, *shape, *stride)):
            raise ValueError(f"a tensor of {len(shape)} sides and {len(stride)} strides")
        name, count = str(kind).removeprefix("torch."), math.prod(shape)
        if count > max(FEW, storage.numel * storage.dtype.itemsize // kind.itemsize):  # a few bytes, repeated
            name = f"{count:,} numbers of which {storage.numel:,} are stored"
        return Lazy(tuple(shape), name, lambda: _take(storage, kind, offset, shape, stride))

    def of_type(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, kind: Any, *rest) -> Lazy:
        if (dtype := BY_NAME.get(_name(kind))) is None:
            raise ValueError(f"a tensor of {_name(kind):.40}")
        return tensor(storage, offset, shape, stride, dtype=dtype)

    def special(what: str) -> Callable[..., Lazy]:
        return lambda *given: Lazy(_sides(given), what, _cannot(what))

    of = "torch._utils _rebuild_"
    functions: dict[str, Callable[..., Any]] = {
        f"{of}tensor": tensor, f"{of}tensor_v2": tensor, f"{of}tensor_v3": of_type,
        f"{of}parameter": lambda data, *_: data, f"{of}parameter_with_state": lambda data, *_: data,
        f"{of}sparse_tensor": special("sparse numbers"), f"{of}sparse_csr_tensor": special("sparse numbers"),
        f"{of}qtensor": special("quantised numbers"), f"{of}meta_tensor_no_storage": special("no numbers (meta)"),
        f"{of}nested_tensor": special("nested numbers"),
        f"{of}wrapper_subclass": special("another program's kind of tensor"),
        "torch._tensor _rebuild_from_type_v2": lambda function, kind, given, *_: _again(functions, function, given),
    }  # fmt: skip
    return Calls(functions, storage)


def _name(given: Any) -> str:
    """A class's or function's; "" of anything else, for lists of lists have no end as text."""
    return str(getattr(given, "kind", ""))


def _again(functions: Mapping[str, Callable[..., Any]], function: Any, given: Any) -> Any:
    """A subclass of torch's tensor, as the tensor that it is made from."""
    name = _name(function)
    if name not in functions or name.endswith("_from_type_v2") or not isinstance(given, tuple):
        return Inert(name)
    return functions[name](*given)


def _sides(given: tuple) -> tuple[int, ...]:
    """The shape among the arguments that build an odd tensor, as far as it can be seen."""
    for one in given:
        if isinstance(one, tuple) and one and all(type(n) is int for n in one):
            return one
    return ()


def _cannot(what: str) -> Callable[[], Tensor]:
    def take() -> Tensor:
        raise AssertionError(what)  # its type is refused before

    return take


def _take(storage: Storage, dtype: torch.dtype, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The numbers of a tensor whose shape was found right: only the span that it covers is read."""
    if offset < 0 or min([*shape, *stride, 0]) < 0:
        raise AlexNetError("a tensor of the file has a side, stride or place below 0; save it again.")
    span = 1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if 0 not in shape else 0
    size = dtype.itemsize
    total = storage.numel * storage.dtype.itemsize
    if (offset + span) * size > total:
        raise AlexNetError(f"a tensor of the file covers {span:,} numbers, more than are stored; copy it again.")
    data = storage.read(offset * size, span * size)
    if len(data) != span * size:
        raise AlexNetError(f"a tensor of the file has {len(data):,} bytes of {span * size:,}; copy it again.")
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if span else torch.empty(0, dtype=dtype)
    return flat.as_strided(shape, stride).contiguous()


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


READER = Reader(
    30, ".pth", "of torch.save (.pt, .ckpt, .bin too): torchvision's alexnet, however it is wrapped", recognises,
    read, state.HINTS,
)  # fmt: skip
