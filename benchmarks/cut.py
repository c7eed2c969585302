"""A machine of three loses its link while they train under torchrun: what the others do, and how soon.

    python benchmarks/cut.py                       # as root or where user namespaces are allowed; needs ip, tc, nft
    python benchmarks/cut.py --host 0              # the one that keeps torchrun's store
    python benchmarks/cut.py --restarts 0

Each host is a network namespace with torchrun's own command in it (tests/hosts.py), one process a host, `alexnet32` on
the CPU; links pass 300 Mbit/s and lose one packet in a hundred. Seconds are counted from the cut.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
LINK, STORE = ("300mbit", 0.01), "10.0.0.1:29400"
SETS = ("variant=alexnet32", "batch_size=12", "epochs=100000", "checkpoint_every=20", "log_every=1", "workers=1")


def main() -> None:
    from hosts import inside, missing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=int, choices=(0, 1, 2), default=2, help="whose link is cut")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=6.0, help="of the run, in seconds")
    parser.add_argument("--wait", type=float, default=150.0, help="seconds after the cut at which all is ended")
    given = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as room:
        words = (given.host, given.restarts, given.timeout, given.wait, room)
        subprocess.run(inside(__file__, "work", *words), env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def work(host: int, restarts: int, timeout: float, wait: float, room: Path) -> None:
    """In a network of its own: start, cut, and say what happens."""
    from alexnet.base.run_files import METRICS
    from conftest import write_folders
    from hosts import Hosts

    write_folders(room / "data" / "train", 24)
    write_folders(room / "data" / "val", 3, first=100)

    def steps() -> int:
        file = room / "run" / METRICS
        return sum(1 for _ in open(file)) if file.exists() else 0

    with Hosts(3, *LINK) as hosts:
        agents = [start(hosts.held[number].pid, number, restarts, timeout, room) for number in range(3)]
        while steps() < 10:
            if any(one.poll() is not None for one in agents):
                raise SystemExit((room / "0.txt").read_text()[-2000:])
            time.sleep(0.1)
        hosts.cut(host)
        began, went_on, ended = time.monotonic(), False, dict[int, float]()
        time.sleep(2)  # a step that was under way is noted meanwhile
        before = steps()
        while (now := time.monotonic() - began) < wait and len(ended) < 3:
            if not went_on and steps() > before:
                went_on = True
                print(f"after {now:.0f} s: it goes on", flush=True)
            for number, agent in enumerate(agents):
                if number not in ended and agent.poll() is not None:
                    ended[number] = now
                    print(f"after {now:.0f} s: host {number}'s torchrun ends, status {agent.returncode}", flush=True)
            time.sleep(0.2)
        for number, agent in enumerate(agents):
            print(f"host {number}: {'its torchrun is still there; ' * (number not in ended)}it said")
            said = (room / f"{number}.txt").read_text().splitlines()
            print("\n".join(f"    {line}" for line in said if line.startswith(("alexnet: ", "torchrun has"))))
            agent.terminate()  # it ends its worker
        for agent in agents:
            try:
                agent.wait(60)
            except subprocess.TimeoutExpired:  # it asks a store that it cannot reach; its worker has ended long ago
                agent.kill()


def start(space: int, number: int, restarts: int, timeout: float, room: Path) -> subprocess.Popen:
    """torchrun on a host, as a user would start it there."""
    words = [
        *("nsenter", f"--net=/proc/{space}/ns/net", sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "1:3", "--nproc-per-node", "1", "--max-restarts", restarts, "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", STORE, "--rdzv-id", "cut", "--local-addr", f"10.0.0.{number + 1}"),
        *("--rdzv-conf", f"is_host={int(number == 0)}", "-m", "alexnet", "train", room / "data"),
        *("--out", room / "run", "--device", "cpu", "--set", *SETS, f"timeout={timeout:g}"),
    ]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(ROOT / "src")}
    with open(room / f"{number}.txt", "w") as said:
        return subprocess.Popen([*map(str, words)], env=environment, stdout=said, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6]))
    else:
        main()
