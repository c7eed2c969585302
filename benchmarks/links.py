"""Does the simulation of scale.py hold? A step's time over a real link of a set speed, against its formula.

    python benchmarks/links.py                         # as root or where user namespaces are allowed; needs ip, tc, nft
    python benchmarks/links.py --loss 0.01 --rates 100

Three processes (two with towers) train `alexnet32` on the CPU, each on a host of its own in a network namespace
(tests/hosts.py). The formula gets the step without a limit as its arithmetic, which then has the machine's own copying
and waiting in it, and the bytes of `networks/traffic.py`. Each figure is the median of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

STEPS, PICTURES = 5, 24
WAYS = (("data", 3), ("hybrid", 3), ("towers", 2))


def main() -> None:
    from hosts import inside, missing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[400.0, 100.0, 25.0], help="Mbit/s")
    parser.add_argument("--loss", type=float, default=0.0)
    given = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    words = inside(__file__, "work", given.loss, *given.rates)
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout.splitlines()[-1])
    print("| way | Mbit/s | MB sent by each a step | measured, s | formula, s | measured / formula |")
    print("| --- " * 6 + "|")
    for way, size in WAYS:
        for rate in given.rates:
            sent, expected = formula(way, size, found[way]["0.0"], rate)
            measured = found[way][str(rate)]
            print(
                f"| {way} | {rate:g} | {sent / 1e6:.2f} | {measured:.2f} | {expected:.2f} | {measured / expected:.2f} |"
            )
        print(f"| {way} | no limit | {sent / 1e6:.2f} | {found[way]['0.0']:.2f} | | |")


def formula(way: str, size: int, arithmetic: float, rate: float) -> tuple[float, float]:
    """Bytes that leave a process in a step, and the seconds that scale.py's formula gives it."""
    import scale

    from alexnet.networks import traffic
    from alexnet.networks.variants import variant

    net, link = (variant("alexnet32"), 10, 3, 28), rate * 1e6 / 8
    if way == "towers":
        numbers = 2 * PICTURES * sum(talk.first + talk.second for talk in traffic.towers(*net))
    else:
        numbers = (traffic.hybrid(*net, size, PICTURES) if way == "hybrid" else traffic.data(*net, size)).all
    return 4 * numbers / size, scale.seconds(way, scale.Gpu(arithmetic, 0.0), size, PICTURES, link, net=net)


def work(loss: float, rates: list[float]) -> None:
    """In a network of its own: each way at each speed, 0 for no limit."""
    from importlib import import_module

    from hosts import Hosts

    for name in ("test_parallel", "torch._dynamo"):
        import_module(name)
    found: dict[str, dict[str, float]] = {}
    with Hosts(3, "", loss) as hosts:
        port = 29500
        for rate in (0.0, *rates):
            hosts.limit(f"{rate}mbit" if rate else "")
            for way, size in WAYS:
                port += 1
                read, write = os.pipe()
                started = []
                for rank in range(size):
                    if not (pid := os.fork()):
                        hosts.enter(rank)
                        be(way, rank, size, port, write)
                    started.append(pid)
                for one in started:
                    os.waitpid(one, 0)
                found.setdefault(way, {})[str(rate)] = float(os.read(read, 100))
    print(json.dumps(found))


def be(way: str, rank: int, size: int, port: int, write: int) -> None:
    """Be a process, whose first tells a step's time."""
    import torch

    import test_parallel as test
    from alexnet.base.distributed import process_group
    from alexnet.networks.model import build
    from alexnet.training import optimizer
    from alexnet.training.recipe import Recipe
    from hosts import address

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ["MASTER_ADDR"] = address(0)
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    try:
        with process_group("cpu") as world:
            torch.manual_seed(0)
            model = build("alexnet32", 10).train()
            division = test.divided(world, way, model)
            rule = optimizer.Rule(optimizer.build_optimizer(division.part, Recipe(learning_rate=1e-4)))
            times = []
            for step in range(STEPS + 1):
                batch = test.made_up(division, step, PICTURES, torch.float32)
                world.barrier()
                began = time.monotonic()
                test.one_step(division, batch, step)
                rule()
                world.barrier()
                times.append(time.monotonic() - began)
            if world.first:
                os.write(write, f"{median(times[1:]):.6f}".encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(float(sys.argv[2]), [float(one) for one in sys.argv[3:]])
    else:
        main()
