"""Three hosts on one machine: network namespaces on a bridge, with a link whose speed, delay and loss are set by tc."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from alexnet.base.metrics import read
from alexnet.base.run_files import METRICS
from alexnet.training.loop import train
from conftest import write_folders
from test_processes import ENVIRONMENT, SETS, losses

pytestmark = [pytest.mark.cpu, pytest.mark.slow]

LINK = ["delay", "1ms", "rate", "400mbit", "loss", "0.1%"]


def allowed() -> bool:
    """Whether this user may make namespaces here."""
    if not shutil.which("ip") or not shutil.which("tc"):
        return False
    made = subprocess.run(["ip", "netns", "add", "alexnet-try"], capture_output=True)
    return made.returncode == 0 and not subprocess.run(["ip", "netns", "del", "alexnet-try"]).returncode


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of three namespaces, whose addresses are 10.77.0.1 to 3."""
    if not allowed():
        pytest.skip("this machine allows no ip netns")
    names = [f"alexnet{n}" for n in (1, 2, 3)]

    def run(words: str) -> None:
        subprocess.run(words.split(), check=True)

    try:
        run("ip link add alexnet-br type bridge")
        run("ip link set alexnet-br up")
        for number, name in enumerate(names, 1):
            run(f"ip netns add {name}")
            run(f"ip link add {name} type veth peer name net0 netns {name}")
            run(f"ip link set {name} master alexnet-br up")
            run(f"ip -n {name} addr add 10.77.0.{number}/24 dev net0")
            run(f"ip -n {name} link set net0 up")
            run(f"ip -n {name} link set lo up")
            run(f"tc -n {name} qdisc add dev net0 root netem {' '.join(LINK)}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", "alexnet-br"], capture_output=True)


def test_a_run_on_three_hosts_goes_on_with_two_when_one_dies(hosts, tmp_path):
    data, run = write_folders(tmp_path / "data", 8), tmp_path / "run"
    sets = [*SETS, "--set", "checkpoint_every=2", "--set", "epochs=12"]
    train(data, tmp_path / "alone", sets=sets[1::2])
    job = uuid.uuid4().hex
    agents = []
    for number, host in enumerate(hosts, 1):
        words = [
            "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:3",
            "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", job,
            "--rdzv-endpoint", "10.77.0.1:29400", "--local-addr", f"10.77.0.{number}",
            "--rdzv-conf", "join_timeout=120,last_call_timeout=5", "-m", "alexnet", "train", data, "--out", run, *sets,
        ]  # fmt: skip
        environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "net0"}
        out = open(tmp_path / f"{host}.out", "w")  # noqa: SIM115, the process keeps it
        agents.append(
            subprocess.Popen(
                [*map(str, words)], env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        )
    try:
        until = time.monotonic() + 240
        while len(losses(run)) < 5 and time.monotonic() < until:
            time.sleep(0.05)
        pids = subprocess.run(["ip", "netns", "pids", hosts[2]], capture_output=True, text=True).stdout.split()
        for pid in pids:  # the whole host
            os.kill(int(pid), signal.SIGKILL)
        assert agents[0].wait(timeout=300) == 0
        assert agents[1].wait(timeout=60) == 0
    finally:
        for agent in agents:
            with suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
    said = "".join(Path(tmp_path / f"{host}.out").read_text() for host in hosts[:2])
    assert ", 2 now (before: 3): the run goes on from its last checkpoint" in said
    steps = [(line["kind"], line["step"]) for line in read(run / METRICS)]
    assert steps == [(line["kind"], line["step"]) for line in read(tmp_path / "alone" / METRICS)]
    assert losses(run) == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
