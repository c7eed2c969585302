"""What really goes over the wire in a step: run in a network namespace of its own, where nothing else is sent.

Prints, for each way, bytes on the loopback and bytes by the formulas, both of a step of all processes together.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

PROCESSES, STEPS, PICTURES = 3, 3, 12


def sent() -> int:
    line = next(x for x in Path("/proc/net/dev").read_text().splitlines() if x.strip().startswith("lo:"))
    return int(line.split()[9])


def measure(way: str) -> tuple[float, float]:
    import torch

    import test_parallel as test
    from alexnet.base.distributed import process_group
    from alexnet.networks import traffic
    from alexnet.networks.model import build
    from alexnet.training import optimizer
    from alexnet.training.recipe import Recipe

    torch.set_num_threads(1)
    with process_group("cpu") as world:
        torch.manual_seed(0)
        model = build("alexnet32", 10).train()
        division = test.divided(world, way, model)
        rule = optimizer.Rule(optimizer.build_optimizer(division.part, Recipe(learning_rate=1e-4)))
        before = 0
        for step in range(STEPS + 1):
            if step == 1:  # the first builds what lasts
                world.barrier()
                before = sent()
            batch = test.made_up(division, step, PICTURES, torch.float32)
            test.one_step(division, batch, step)
            rule()
        world.barrier()
        found = (sent() - before) / STEPS
        size = (model.variant, 10, 3, model.input)
        if way == "towers":
            expected = 2 * PICTURES * sum(talk.first + talk.second for talk in traffic.towers(*size))
        elif way == "hybrid":
            expected = traffic.hybrid(*size, world.size, PICTURES).all
        else:
            expected = traffic.data(*size, world.size).all
        return found, 4 * expected


def main() -> None:
    """Start the processes, each of which measures one way after the other; forked, as torch takes seconds to import."""
    import test_parallel  # noqa: F401

    started = []
    for rank in range(PROCESSES):
        if not (number := os.fork()):
            work(rank)
            os._exit(0)
        started.append(number)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in started))


def work(rank: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    results = {}
    for number, (way, size) in enumerate((("data", PROCESSES), ("hybrid", PROCESSES), ("towers", 2))):
        os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_PORT": str(29500 + number)}
        if rank < size:
            results[way] = measure(way)
    if rank == 0:
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
