"""Training divided among processes against one process: losses, weights, files, and the bytes that are exchanged.

Most of it with threads for processes (together.py), in float64; what torch.distributed and torchrun do, with real ones.
"""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError
from alexnet.data import augment
from alexnet.data.loader import Batch
from alexnet.networks import traffic
from alexnet.networks.model import AlexNet
from alexnet.networks.plan import departure
from alexnet.networks.variants import VARIANTS
from alexnet.training import optimizer
from alexnet.training.lars import Lars
from alexnet.training.parallel import hybrid
from alexnet.training.parallel.division import Division
from alexnet.training.parallel.hybrid import Hybrid, turns
from alexnet.training.parallel.towers import Towers
from alexnet.training.recipe import Recipe
from narrow import narrow, redraw
from together import Thread, threads

CLASSES, PICTURES, STEPS = 5, 6, 2
ALONE = World(0, 1, torch.device("cpu"))


def network(name: str) -> AlexNet:
    plan = narrow(name)
    model = AlexNet(plan, CLASSES, 3, plan.input)
    redraw(model)
    return model.double().to(memory_format=torch.channels_last).train()


def divided(world: World, way: str, model: AlexNet) -> Division:
    if way == "towers":
        return Towers(model, world, torch.float64)
    if way.startswith("hybrid"):
        return Hybrid(model, world, torch.float64, way.removeprefix("hybrid"))
    return Division(model, world.wrap(model), world, torch.float64)


def learn(world: World, name: str, way: str, missing: tuple[int, ...] = (), lars: float = 0.0) -> dict:
    """A few steps on made-up pictures, of which those of `missing` rows cannot be read."""
    division = divided(world, way, network(name))
    update = optimizer.build_optimizer(division.part, Recipe(learning_rate=0.01))
    rule = Lars(update, lars, division.part, division.total) if lars else optimizer.Rule(update)
    losses = []
    for step in range(STEPS):
        batch = made_up(division, step, PICTURES, torch.float64, missing)
        losses.append(one_step(division, batch, step))
        rule()
    memory = sum(x.numel() for x in division.part.parameters())
    division.together()
    weights = {key: x.clone() for key, x in division.whole.state_dict().items()}
    again = optimizer.build_optimizer(division.part, Recipe(learning_rate=0.01))
    state = division.state(update)
    division.load(again, state)
    return {
        "losses": losses, "weights": weights, "state": state, "again": division.state(again), "memory": memory,
        "bytes": division.exchange.bytes if way != "data" else 0,
    }  # fmt: skip


def made_up(division: Division, step: int, count: int, dtype: torch.dtype, missing: tuple[int, ...] = ()) -> Batch:
    """This process' share of a batch, the same in every number of processes."""
    draw, side = torch.Generator().manual_seed(step), division.part.input
    images = 30 * torch.randn(count, 3, side, side, generator=draw, dtype=dtype)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    rows = np.array([row for row in division.readers.slice(count) if row not in missing], np.int64)
    return division.agreed(Batch(images[rows], labels[rows], rows, count))


def one_step(division: Division, batch: Batch, step: int) -> float:
    mine, images, labels, rows = division.counted(batch), batch.pictures, batch.labels, batch.rows
    everyone = max(1, int(division.world.sum(torch.tensor(mine))))
    if not len(labels):
        images, labels, rows = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1), np.zeros(1, np.int64)

    def draw(rows: np.ndarray) -> dict[str, Tensor]:
        return augment.dropout_masks(division.whole.dropouts, batch.size, rows, (0, step), torch.device("cpu"))

    def loss_of(logits: Tensor, at: slice) -> Tensor:
        return F.cross_entropy(logits, labels[at], reduction="sum") * (1.0 if mine else 0.0)

    loss, _ = division.learn(images, division.masks(draw, rows), loss_of, everyone)
    if isinstance(division, Hybrid) and isinstance(division.world, Thread):  # what DistributedDataParallel does
        for name, parameter in division.part.named_parameters():
            if name not in division.cuts:
                parameter.grad = division.world.sum(parameter.grad) / division.world.size
    return float(division.world.sum(loss.clone())) / everyone


def assert_same(found: dict, one: dict) -> None:
    assert found["losses"] == pytest.approx(one["losses"], rel=1e-9)
    assert found["weights"].keys() == one["weights"].keys()
    for key, x in one["weights"].items():
        torch.testing.assert_close(found["weights"][key], x, rtol=1e-9, atol=1e-12, msg=key)
    for state in (found["state"], found["again"]):
        assert state["param_groups"] == one["state"]["param_groups"]
        assert state["state"].keys() == one["state"]["state"].keys()
        for key, x in one["state"]["state"].items():
            velocity = state["state"][key]["momentum_buffer"]
            torch.testing.assert_close(velocity, x["momentum_buffer"], rtol=1e-9, atol=1e-12)
            assert velocity.stride() == x["momentum_buffer"].stride()


NO_TOWERS = {
    **dict.fromkeys(("alexnet_single", "alexnet2012_half", "alexnet_cc2", "alexnet_owt"), "in two groups"),
    **dict.fromkeys(("cifar10_18", "cifar10_13", "cifar10_11", "alexnet64_half"), "in two groups"),
    **dict.fromkeys(("bvlc_alexnet", "caffenet", "bvlc_alexnet_zoo"), "its norm1 normalises over the maps of both"),
}
NOT_SPLIT = {
    "alexnet2012_apart": "its fc6 is in 2 groups",
    "alexnet_bn": "its norm1 is batch normalisation",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_divided_as_alone_or_is_refused_by_a_sentence(name):
    (one,) = threads(1, learn, name, "data")
    for way, size, refused in (("towers", 2, NO_TOWERS), ("hybrid", 3, NOT_SPLIT)):
        if name in refused:
            with pytest.raises(AlexNetError, match=refused[name]):
                threads(size, learn, name, way)
            continue
        several = threads(size, learn, name, way)
        for found in several:
            assert_same(found, one)
        assert sum(found["memory"] for found in several) < 1.1 * one["memory"] or way == "hybrid"


@pytest.fixture
def as_on_gpus(monkeypatch):
    """torch's DDP in a group of one process, which takes its inputs apart as where each process has a GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)

    class OnGpu(torch.nn.parallel.DistributedDataParallel):
        def __init__(self, net, device_ids, **given):
            assert device_ids == [0]
            super().__init__(net, **given)
            self.device_ids, self.device_type = device_ids, "cpu"

        def _passing_sync_batchnorm_handle(self, module) -> None:
            """torch asks for a GPU here."""

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", OnGpu)
    yield World(0, 2, torch.device("cuda", 0))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_wrapped_where_each_process_has_a_gpu(name, as_on_gpus):
    """The gradients are those of the network itself, and what is saved of it has the layers of its plan."""
    model, alone = network(name), network(name)
    net = as_on_gpus.wrap(as_on_gpus.normalised(model))
    assert departure(model, CLASSES) == ""
    assert {id(one) for one in net.parameters()} == {id(one) for one in model.parameters()}
    assert {id(one) for one in net.buffers()} == {id(one) for one in model.buffers()}
    assert not net.will_sync_module_buffers()  # bands are constants
    synchronised = [one for one in net.modules() if isinstance(one, torch.nn.SyncBatchNorm)]
    assert len(synchronised) == sum(isinstance(one, torch.nn.BatchNorm2d) for one in alone.modules())
    if synchronised:
        return  # which torch computes on GPUs alone
    images = torch.randn(2, 3, model.input, model.input, dtype=torch.float64)
    masks = augment.dropout_masks(model.dropouts, 2, np.arange(2), (0, 0), torch.device("cpu"))
    for one in (net, alone):
        one(images, masks).square().sum().backward()
    for (key, one), other in zip(alone.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("way", ["towers", "hybrida", "hybridb", "hybridc"])
@pytest.mark.parametrize("missing", [(2,), (0, 1, 2), tuple(range(PICTURES))])
def test_pictures_that_cannot_be_read_are_left_out_everywhere(way, missing):
    one = learn(ALONE, "alexnet32", "data", missing) if len(missing) < PICTURES else None
    for found in threads(2 if way == "towers" else 4, learn, "alexnet32", way, missing):
        if one:
            assert_same(found, one)
        else:
            assert found["losses"] == [0] * STEPS


def test_a_picture_that_one_of_two_towers_cannot_read_is_left_out_by_both():
    def two(world: World) -> dict:
        return learn(world, "alexnet32", "towers", ((1,), (1, 4))[world.rank])

    for found in threads(2, two):
        assert_same(found, learn(ALONE, "alexnet32", "data", (1, 4)))


@pytest.mark.parametrize("lars", [0.0, 0.02])
@pytest.mark.parametrize(("way", "size"), [("towers", 2), ("hybrid", 11)])
def test_with_layer_wise_rates_and_more_processes_than_units_or_pictures_it_is_the_same(way, size, lars):
    one = learn(ALONE, "alexnet32", "data", lars=lars)
    for found in threads(size, learn, "alexnet32", way, (), lars):
        assert_same(found, one)


@pytest.mark.parametrize("name", ["alexnet2012", "alexnet2012_apart", "alexnet32", "cifar10_13"])
def test_the_bytes_that_are_sent_are_those_of_the_formulas(name):
    plan = narrow(name)
    size = (plan, CLASSES, 3, plan.input)
    if name not in NO_TOWERS:
        forward = sum(talk.first + talk.second for talk in traffic.towers(*size))
        sent = sum(found["bytes"] for found in threads(2, learn, name, "towers"))
        assert sent == STEPS * 8 * PICTURES * 2 * forward
    if name not in NOT_SPLIT:
        for processes in (3, 8):
            sent = sum(found["bytes"] for found in threads(processes, learn, name, "hybrid"))
            assert sent == STEPS * 8 * traffic.hybrid(*size, processes, PICTURES).connected


def test_eight_processes_send_a_quarter_or_less_for_the_fully_connected_layers():
    size = (VARIANTS["alexnet2012"], 1000, 3, 224)
    plain, split = traffic.data(*size, 8), traffic.hybrid(*size, 8, 8 * 128)
    assert plain.connected == 2 * 7 * 58_631_144  # facts 1.2
    assert plain.convolutions == split.convolutions == 2 * 7 * 2_334_080
    assert plain.connected / split.connected > 5.5
    assert 3 < plain.connected / traffic.hybrid(*size, 8, 8 * 128, above=True).connected < 3.5


def test_towers_talk_where_the_2012_code_does():
    """Spec 9.1: 21,632 floats each way, 4,608, 2,048, and fc7's second half to the GPU of fc8."""
    talks = traffic.towers(VARIANTS["alexnet2012"], 1000, 3, 224)
    assert [(talk.layer, talk.first, talk.second) for talk in talks] == [
        ("conv3", 21_632, 21_632), ("fc6", 4_608, 4_608), ("fc7", 2_048, 2_048), ("fc8", 0, 2_048),
    ]  # fmt: skip


def test_all_pictures_at_once_where_they_fit_and_else_a_share_of_everyones_a_turn(monkeypatch):
    (part,) = threads(1, lambda world: Hybrid(network("alexnet32"), world, torch.float64).part)
    needed = 4 * 10 * 3 * (24 + 24 + CLASSES)
    for room, scheme in ((needed, "a"), (needed - 1, "c")):
        monkeypatch.setattr(hybrid, "ROOM", room)
        assert hybrid.cheapest(part, 10) == scheme


def test_every_picture_has_its_turn_once():
    for scheme in "abc":
        for counts in ([4, 4, 4], [0, 5, 1], [2]):
            found = turns(scheme, counts)
            for rank, count in enumerate(counts):
                assert [row for turn in found for row in turn[rank]] == list(range(count))
    assert max(sum(map(len, turn)) for turn in turns("c", [6, 6, 6])) == 6, "a third at once"
    assert all(sum(map(bool, turn)) == 1 for turn in turns("b", [6, 6, 6])), "one process at a time"
