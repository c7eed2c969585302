"""`python elastic.py PROCESSES RESTARTS WORDS ...`: torchrun itself, whose workers are forked from one with torch."""

from __future__ import annotations

import sys
import uuid


def _work(words: list[str]) -> None:
    import signal

    from alexnet.cli import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = run(words)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    import multiprocessing

    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    multiprocessing.set_forkserver_preload(["alexnet.inference.prediction", "alexnet.training.loop"])
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=int(sys.argv[1]), run_id=str(uuid.uuid4()), rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=int(sys.argv[2]), monitor_interval=0.1, start_method="forkserver",
    )  # fmt: skip
    elastic_launch(config, _work)(sys.argv[3:])
