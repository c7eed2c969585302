"""Hosts in network namespaces on one machine, joined by a switch whose links have a speed and lose packets.

`with Hosts(3, "100mbit", 0.01) as hosts: hosts.enter(1)` in a process that `inside()` has started: it is then host 1,
10.0.0.2. All goes with that process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from typing import Self

OWN = ["unshare", "--user", "--map-root-user", "--net"]
NEWNET = 0x40000000
BURST = "32kb"


def inside(*words: object) -> list[str]:
    """The command line of a Python program that has a network of its own."""
    return [*OWN, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *map(str, words)]


def missing(lossy: bool = True) -> str:
    """Why this machine cannot make such a network, "" where it can."""
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")):
        if not shutil.which(program) and (lossy or program in ("unshare", "ip")):
            return f"there is no {program} here (Debian's package {package})"
    words = [__file__, *(["100mbit", "0.01"] if lossy else ["", "0"])]
    tried = subprocess.run(inside(*words), capture_output=True, text=True)
    return f"no network namespaces here: {tried.stderr.strip().splitlines()[-1]}" if tried.returncode else ""


class Hosts:
    """`count` hosts; each link passes `rate` each way ("" is no limit) and loses that share of what comes in."""

    def __init__(self, count: int, rate: str = "", loss: float = 0.0) -> None:
        self.count, self.rate, self.loss = count, rate, loss
        self.held: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        line("ip link add switch type bridge && ip link set switch up")
        for _ in range(self.count):  # each ends when nobody holds its pipe any more
            one = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            self.held.append(one)
        for number, one in enumerate(self.held):
            while os.readlink(f"/proc/{one.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                time.sleep(0.01)
            line(f"ip link add port{number} type veth peer name eth0 netns {one.pid}")
            line(f"ip link set port{number} master switch up")
            line(f"ip addr add {address(number)}/24 dev eth0 && ip link set eth0 up && ip link set lo up", one.pid)
        if self.rate:
            self.limit(self.rate)
        if self.loss:
            rule = f"numgen random mod 10000 < {round(1e4 * self.loss)} drop"
            for one in self.held:
                line("nft add table ip lossy", one.pid)
                line("nft 'add chain ip lossy in { type filter hook input priority 0; }'", one.pid)
                line(f"nft 'add rule ip lossy in iif eth0 {rule}'", one.pid)
        return self

    def limit(self, rate: str) -> None:
        """Another speed from now on."""
        how = f"tbf rate {rate} burst {BURST} latency 50ms" if rate else "pfifo"
        for number, one in enumerate(self.held):
            line(f"tc qdisc replace dev port{number} root {how}")
            line(f"tc qdisc replace dev eth0 root {how}", one.pid)

    def cut(self, number: int) -> None:
        """Take the link of a host away."""
        line(f"ip link set port{number} down")

    def enter(self, number: int) -> None:
        """Make this process one on that host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{self.held[number].pid}/ns/net") as space:
            if libc.setns(space.fileno(), NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = "eth0"

    def __exit__(self, *_: object) -> None:
        for one in self.held:
            one.kill()
            one.wait()
        line("ip link del switch type bridge")


def address(number: int) -> str:
    return f"10.0.0.{number + 1}"


def line(text: str, host: int | None = None) -> None:
    """A line of the shell, on this host or where the process of that number is."""
    within = ["nsenter", f"--net=/proc/{host}/ns/net"] if host else []
    subprocess.run([*within, "sh", "-c", text], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    with Hosts(1, sys.argv[1], float(sys.argv[2])):
        pass
