"""Commands run by several processes, which are forked from one: torch takes seconds to import.

`python several.py FOLDER` runs the commands of FOLDER/jobs.json, each by so many processes; RANK in a word stands for
the number of the process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hosts import Hosts, address, inside, line


@dataclass(frozen=True)
class Said:
    """What a process said in a command, its exit status, and how many units of work it has made."""

    status: int
    out: str
    err: str
    made: int


def several(
    folder: Path, jobs: dict[int, dict[str, list[Any]]], patches: dict[str, Any] | None = None,
    deaths: dict[str, tuple[int, int]] | None = None, restarts: int | None = None,
    hosts: tuple[int, str, float] | None = None, cuts: dict[str, tuple[int, int]] | None = None,
    here: Sequence[str] = (),
) -> dict[int, dict[str, list[Said]]]:  # fmt: skip
    """By number of processes and name of a command, what each process said.

    `patches` are put in the place of values by their dotted names. In a command of `deaths` the process of that rank
    is killed when it begins its work of that number; `restarts` says how often torchrun has started them again. Each
    process is on a host of its own of `hosts`, as hosts.Hosts takes them, save in commands of `here`; in a training of
    `cuts` the host of that number loses its link at that step, for good.
    """
    words = {size: {name: [*map(str, one)] for name, one in table.items()} for size, table in jobs.items()}
    asked = {"jobs": words, "patches": patches or {}, "deaths": deaths or {}, "restarts": restarts}
    asked |= {"hosts": hosts, "cuts": cuts or {}, "here": list(here)}
    (folder / "jobs.json").write_text(json.dumps(asked))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = inside(__file__, folder) if hosts else [sys.executable, __file__, str(folder)]
    subprocess.run(start, env=environment, check=True, timeout=600)
    return heard(folder)


def heard(folder: Path) -> dict[int, dict[str, list[Said]]]:
    """What `several` has given for this folder."""
    jobs = {int(size): table for size, table in json.loads((folder / "jobs.json").read_text())["jobs"].items()}
    return {
        size: {name: [_said(folder / f"{size} {name} {rank}") for rank in range(size)] for name in table}
        for size, table in jobs.items()
    }


def _said(stem: Path) -> Said:
    out, err = (stem.with_name(stem.name + end).read_text() for end in (".out", ".err"))
    status, made = stem.with_name(stem.name + ".status").read_text().split()
    return Said(int(status), out, err, int(made))


def _start(folder: Path) -> None:
    import alexnet.data.packs.writing
    import alexnet.inference.feature_files
    import alexnet.inference.prediction
    import alexnet.inference.similarity
    import alexnet.training.loop  # noqa: F401, what the commands import

    asked = json.loads((folder / "jobs.json").read_text())
    asked["here"] = set(asked["here"])
    if asked["hosts"]:
        import_module("torch._dynamo")  # as data-parallel training does
    for name, value in asked["patches"].items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    with Hosts(*asked["hosts"]) if asked["hosts"] else nullcontext() as hosts:
        _do(folder, asked, hosts)


def _do(folder: Path, asked: dict[str, Any], hosts: Hosts | None) -> None:
    for size, table in asked["jobs"].items():
        # Who dies takes no other command with it, and who is on a host stays there.
        for part in [{name: words} for name, words in table.items()] if asked["deaths"] or hosts else [table]:
            ports = _free_ports(len(part))
            ranks = []
            for rank in range(int(size)):
                if not (number := os.fork()):
                    _work(folder, int(size), rank, part, ports, asked, None if asked["here"] & part.keys() else hosts)
                ranks.append(number)
            for number in ranks:
                os.waitpid(number, 0)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _work(
    folder: Path, size: int, rank: int, table: dict[str, list[str]], ports: list[int], asked: dict[str, Any],
    hosts: Hosts | None,
) -> None:  # fmt: skip
    """Be one of the processes, to its end."""
    from alexnet.base import turns
    from alexnet.cli import run

    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["MASTER_ADDR"] = address(0) if hosts else "127.0.0.1"
    if hosts:
        hosts.enter(rank)
    begin = turns._next
    try:
        for (name, words), port in zip(table.items(), ports, strict=True):
            os.environ["MASTER_PORT"] = str(port)
            if asked["restarts"] is not None:
                os.environ |= {"TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_RESTART_COUNT": str(asked["restarts"])}
            stem = folder / f"{size} {name} {rank}"
            for number, end in ((1, "out"), (2, "err")):
                file = os.open(f"{stem}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
                os.close(file)
            made = [0]

            def counting(work: Any, name: str = name, made: list[int] = made, stem: Path = stem) -> Any:
                if asked["deaths"].get(name) == [rank, made[0]]:
                    Path(f"{stem}.status").write_text(f"{-signal.SIGKILL} {made[0]}")
                    os.kill(os.getpid(), signal.SIGKILL)
                found = begin(work)
                made[0] += found[0] is not turns.DONE
                return found

            turns._next = counting
            if (cut := asked["cuts"].get(name)) and cut[0] == rank:
                cut_at(cut[1])
            status = run([word.replace("RANK", str(rank)) for word in words])
            sys.stdout.flush()
            Path(f"{stem}.status").write_text(f"{status} {made[0]}")
    finally:
        os._exit(0)


def cut_at(step: int) -> None:
    """Let this process' host lose its link before a step of the training that comes."""
    from alexnet.training import loop

    begin = loop._step

    def cutting(run: Any, *given: Any) -> None:
        if run.position.step == step:
            line("ip link set eth0 down")
        begin(run, *given)

    loop._step = cutting


if __name__ == "__main__":
    _start(Path(sys.argv[1]))
