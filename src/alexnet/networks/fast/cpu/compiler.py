"""The C++ forms, compiled on first use by the machine's own compiler and kept in the cache under a hash of all that
decides the result: sources, flags, compiler, processor and C library."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from alexnet.base.errors import AlexNetError
from alexnet.base.files import cache_folder
from alexnet.base.speaking import is_first

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
ROUNDING = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")  # no -ffast-math: NaN must stay NaN
SECONDS = 120  # that a compiler may take


@cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled forms and the compiler's name; or None, and why there are none. What happens is said on stderr.

    $CXX names the compiler; the default is c++ or g++.
    """
    try:
        command = _compiler()
        version = _output([*command, "--version"]).splitlines()[0]
        files = sorted(resources.files(__package__).iterdir(), key=lambda file: file.name)
        sources = {file.name: file.read_bytes() for file in files if file.name.endswith((".cpp", ".h"))}
        digest = hashlib.sha256()
        words = (version, *command, *FLAGS, *ROUNDING, _processor(), *platform.libc_ver(), *sources)
        for part in (*(word.encode() for word in words), *sources.values()):
            digest.update(part + b"\0")
        try:
            folder = cache_folder() / "fast"
        except AlexNetError:
            raise _Unable("there is no home folder to keep them in; $ALEXNET_CACHE may name another") from None
        file = folder / f"{digest.hexdigest()[:24]}.so"
        kept = _opened(file) if _trusted(file) else None
        if not isinstance(kept, ctypes.CDLL):  # not there, or damaged, or made for other libraries than this system's
            _compile(command, sources, folder, file, version)
            kept = _opened(file)
        if isinstance(kept, OSError):
            raise _Unable(f"what {command[0]} made cannot be loaded ({kept!s:.200})")
        return kept, f"as C++ compiled by {version}"
    except _Unable as why:
        if is_first():
            print(f"layers run in their plain form, at about half the speed: {why}", file=sys.stderr, flush=True)
        return None, f"plain, because {why}"


class _Unable(Exception):
    """Why there is no compiled form, in words."""


def _compiler() -> list[str]:
    if os.name != "posix":
        raise _Unable("the C++ forms are written for GCC and Clang on Linux and macOS")
    given = os.environ.get("CXX", "")
    try:
        asked = shlex.split(given)
    except ValueError as error:
        raise _Unable(f"$CXX is {given!r}, which is no command ({error})") from None
    for words in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(words[0]):
            return words
    raise _Unable(
        f"$CXX names {asked[0]}, which is not there" if asked else "there is no C++ compiler (c++, g++ or clang++)"
    )


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unable(f"{command[0]} cannot be run ({type(error).__name__})") from None
    if done.returncode or (not done.stdout and "--version" in command):
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise _Unable(f"{command[0]} failed: {lines[0].strip()[:200]}")
    return done.stdout


def _processor() -> str:
    """The processor's name and instructions, by which -march=native chooses its own."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() + platform.machine()
    return "\n".join(
        sorted({line for line in text.splitlines() if line.startswith(("flags", "model name", "Features"))})
    )


def _trusted(file: Path) -> bool:
    """Whether the file is there and nobody else could have put it there."""
    try:
        facts = [file.stat(), file.parent.stat()]
    except OSError:
        return False
    return all(fact.st_uid == os.getuid() and not fact.st_mode & 0o022 for fact in facts)


def _opened(file: Path) -> ctypes.CDLL | OSError:
    """The compiled forms in a file, or why it cannot be loaded."""
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        return error


def _compile(command: list[str], sources: dict[str, bytes], folder: Path, file: Path, version: str) -> None:
    began = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with tempfile.TemporaryDirectory(dir=folder) as room:
            for name, text in sources.items():
                (Path(room) / name).write_bytes(text)
            units = [str(Path(room) / name) for name in sources if name.endswith(".cpp")]
            made = Path(room) / "made.so"
            _output([*command, *FLAGS, *ROUNDING, *units, "-o", str(made)])
            made.chmod(0o700)
            with open(made, "rb") as whole:
                os.fsync(whole.fileno())
            os.replace(made, file)  # several processes may do this at once: each leaves a whole file
    except OSError as error:
        raise _Unable(f"{folder} cannot be written ({error.strerror})") from None
    if is_first():
        seconds = time.monotonic() - began
        print(f"fast layers compiled in {seconds:.0f} s by {version}, kept in {folder}", file=sys.stderr, flush=True)


def takes(x: Tensor) -> bool:
    """Whether x is a plain tensor: no subclass, none of vmap's batches, none with a forward derivative."""
    return (
        type(x) is Tensor
        and torch._C._has_storage(x)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(x).tangent is None
    )


def readable(x: Tensor) -> bool:
    """Whether the values of x lie where its address says: it is dense, on the CPU, and of no subclass."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.layout == torch.strided


def call(name: str, what: ctypes.Structure, *tensors: Tensor) -> None:
    """Run a compiled form; tensors go as pointers to their first element, empty ones as null."""
    compiled, _ = library()
    for one in tensors:
        if not readable(one):
            raise AlexNetError(
                f"the compiled {name} was given a {type(one).__name__} on {one.device}; it reads plain tensors on the "
                "CPU alone: run this within alexnet.fast.plain()."
            )
    pointers = [ctypes.c_void_p(tensor.data_ptr() if tensor.numel() else None) for tensor in tensors]
    getattr(compiled, name)(ctypes.byref(what), *pointers)
