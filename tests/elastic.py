"""`python elastic.py PROCESSES RESTARTS WORDS ...`: torchrun itself, whose workers are forked from one with torch.

In the environment MEETING, host:port, makes it one of one to three machines that meet there, HOST=1 the one that keeps
their store; UNTIL names a file with the step at which a run waits.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any


def children(parent: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state, number = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if number == str(parent) and state != "Z" and folder.name.isdigit():
            found.append(int(folder.name))
    return found


def _work(words: list[str]) -> None:
    import signal

    from alexnet.cli import run
    from alexnet.training import loop

    if until := os.environ.get("UNTIL", ""):
        step = loop._step

        def wait(run: Any, *given: Any) -> None:
            while run.position.step >= int(Path(until).read_text() or 0) and not run.stop.received:
                time.sleep(0.05)
            step(run, *given)

        loop._step = wait
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = run(words)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    import multiprocessing

    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    multiprocessing.set_forkserver_preload(["alexnet.inference.prediction", "alexnet.training.loop", "torch._dynamo"])
    meeting = os.environ.get("MEETING", "")
    host = {"is_host": os.environ.get("HOST") == "1"}  # else whoever comes first, on whom the others then depend
    patience = host | {"last_call_timeout": 1, "keep_alive_interval": 1, "keep_alive_max_attempt": 3} if meeting else {}
    config = LaunchConfig(
        min_nodes=1, max_nodes=3 if meeting else 1, nproc_per_node=int(sys.argv[1]), rdzv_backend="c10d",
        run_id=meeting or str(uuid.uuid4()), rdzv_endpoint=meeting or "localhost:0", rdzv_configs=patience,
        max_restarts=int(sys.argv[2]), monitor_interval=0.1, start_method="forkserver",
    )  # fmt: skip
    elastic_launch(config, _work)(sys.argv[3:])
