"""Commands run by several processes, which are forked from one: torch takes seconds to import.

`python several.py FOLDER` runs the commands of FOLDER/jobs.json, each by so many processes; RANK in a word stands for
the number of the process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Said:
    """What a process said in a command, and its exit status."""

    status: int
    out: str
    err: str


def several(
    folder: Path, jobs: dict[int, dict[str, list[Any]]], patches: dict[str, Any] | None = None
) -> dict[int, dict[str, list[Said]]]:
    """By number of processes and name of a command, what each process said.

    `patches` are put in the place of values by their dotted names.
    """
    words = {size: {name: [*map(str, one)] for name, one in table.items()} for size, table in jobs.items()}
    (folder / "jobs.json").write_text(json.dumps({"jobs": words, "patches": patches or {}}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True, timeout=600)
    return {
        size: {name: [_said(folder / f"{size} {name} {rank}") for rank in range(size)] for name in table}
        for size, table in jobs.items()
    }


def _said(stem: Path) -> Said:
    status, out, err = (stem.with_name(stem.name + end).read_text() for end in (".status", ".out", ".err"))
    return Said(int(status), out, err)


def _start(folder: Path) -> None:
    from importlib import import_module

    import alexnet.data.packs.writing
    import alexnet.inference.feature_files
    import alexnet.inference.prediction
    import alexnet.inference.similarity  # noqa: F401, what the commands import

    asked = json.loads((folder / "jobs.json").read_text())
    for name, value in asked["patches"].items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    for size, table in asked["jobs"].items():
        ports = _free_ports(len(table))
        ranks = []
        for rank in range(int(size)):
            if not (number := os.fork()):
                _work(folder, int(size), rank, table, ports)
            ranks.append(number)
        for number in ranks:
            os.waitpid(number, 0)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _work(folder: Path, size: int, rank: int, table: dict[str, list[str]], ports: list[int]) -> None:
    """Be one of the processes, to its end."""
    from alexnet.cli import run

    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        for (name, words), port in zip(table.items(), ports, strict=True):
            os.environ["MASTER_PORT"] = str(port)
            stem = f"{size} {name} {rank}"
            for number, end in ((1, "out"), (2, "err")):
                file = os.open(folder / f"{stem}.{end}", os.O_WRONLY | os.O_CREAT)
                os.dup2(file, number)
                os.close(file)
            status = run([word.replace("RANK", str(rank)) for word in words])
            sys.stdout.flush()
            (folder / f"{stem}.status").write_text(str(status))
    finally:
        os._exit(0)


if __name__ == "__main__":
    _start(Path(sys.argv[1]))
