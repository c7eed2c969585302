"""What each process keeps and sends, with gradients summed (`data`), with layers split by units (`hybrid`), and with
weights, gradients and velocities sharded (torch's FSDP2): counted in a few steps of real processes on CPUs.

    python benchmarks/sharded.py --processes 3 [--variant alexnet2012] [--pictures 12]
    unshare --user --map-root-user --net sh -c "ip link set lo up; python benchmarks/sharded.py"

Kept are parameters, gradients and velocities after a step. Sent is what the loopback counted in a step, which is true
only in a network namespace, as by the second line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

STEPS = 2  # that are counted, after one that builds what lasts
WAYS = ("data", "hybrid", "fsdp2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--variant", default="alexnet2012")
    parser.add_argument("--pictures", type=int, default=12, help="a step of all processes together")
    given = parser.parse_args()
    size = str(given.processes)
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
    }
    words = [sys.executable, __file__, "work", given.variant, str(given.pictures)]
    started = [
        subprocess.Popen(words, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE, text=True)
        for r in range(given.processes)
    ]
    said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        raise SystemExit("a process failed")
    facts = [json.loads(one.splitlines()[-1]) for one in said]
    print(f"| {given.processes} processes | MB kept by each | of them connected layers | MB sent a step, all | loss |")
    print("| --- " * 5 + "|")
    for way in WAYS:
        kept, connected = (" ".join(f"{one[way][key] / 1e6:,.0f}" for one in facts) for key in ("kept", "connected"))
        first = facts[0][way]
        print(f"| {way} | {kept} | {connected} | {first['sent'] / 1e6:,.0f} | {first['loss']:.6f} |")


def work(variant: str, pictures: int) -> None:
    """Be a process: one way after the other, each with the same weights and pictures."""
    import torch

    from alexnet.base.distributed import process_group

    torch.set_num_threads(1)
    found = {}
    for number, way in enumerate(WAYS):
        os.environ["MASTER_PORT"] = str(29700 + number)
        with process_group("cpu") as world:
            found[way] = measure(way, variant, pictures, world)
    print(json.dumps(found))


def measure(way: str, variant: str, pictures: int, world) -> dict[str, float]:
    import torch

    from alexnet.networks.model import seeded_build
    from alexnet.networks.variants import variant as plan

    model = seeded_build(0, variant, 1000, 3, plan(variant).input).eval()  # without dropout, so that losses are equal
    net, step = fsdp2(model, world) if way == "fsdp2" else divided(way, model, world)
    update = torch.optim.SGD(net.parameters(), 0.001, momentum=0.9)  # fused, as in training, it takes no sharded ones
    sent = loss = 0.0
    for number in range(STEPS + 1):
        draw = torch.Generator().manual_seed(number)
        images = torch.randn(pictures, 3, model.input, model.input, generator=draw)
        labels = torch.randint(0, 1000, (pictures,), generator=draw)
        world.barrier()
        before = loopback()
        own = step(images, labels, torch.tensor(world.slice(pictures)))
        update.step()
        loss = float(world.sum(own.double())) / pictures
        world.barrier()
        sent += (loopback() - before) / STEPS if number else 0
        if number < STEPS:
            update.zero_grad()
    named = list(net.named_parameters())
    tensors = [(name, x) for name, p in named for x in (p, p.grad, update.state[p].get("momentum_buffer"))]
    connected = sum(size([x]) for name, x in tensors if ".fc" in f".{name}")
    return {"kept": size(x for _, x in tensors), "connected": connected, "sent": sent, "loss": loss}


def divided(way: str, model, world) -> tuple:
    """The program's own ways; a step from pictures, labels and this process' rows to the sum of its losses."""
    import torch
    import torch.nn.functional as F

    from alexnet.data.loader import Batch
    from alexnet.training.parallel.division import Division
    from alexnet.training.parallel.hybrid import Hybrid

    if way == "hybrid":
        division: Division = Hybrid(model, world, torch.float32)
    else:
        division = Division(model, world.wrap(model), world, torch.float32)

    def step(images, labels, rows):
        batch = division.agreed(Batch(images[rows], labels[rows], rows.numpy(), len(labels)))

        def loss_of(logits, at):
            return F.cross_entropy(logits, batch.labels[at], reduction="sum")

        return division.learn(batch.pictures, {}, loss_of, len(labels))[0]

    return division.part, step


def fsdp2(model, world) -> tuple[object, Callable]:
    """Each fully connected layer a group of its own, which is whole only while it works; the rest another."""
    import torch.nn.functional as F
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world.size,))
    for name, layer in model.named_children():
        if name.startswith("fc"):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)

    def step(images, labels, rows):
        loss = F.cross_entropy(model(images[rows]), labels[rows], reduction="sum")
        (loss * world.size / len(labels)).backward()  # as gradients are averaged
        return loss.detach()

    return model, step


def size(tensors: Iterable) -> int:
    """Bytes of what this process has of them."""
    own = [x.to_local() if hasattr(x, "to_local") else x for x in tensors if x is not None]
    return sum(x.numel() * x.element_size() for x in own)


def loopback() -> int:
    """Bytes that this machine has sent itself; 0 where it does not say."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


if __name__ == "__main__":
    work(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["work"] else main()
