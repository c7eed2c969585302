"""The two towers of 2012 against two separate half networks that exchange maps at conv3, fc6, fc7 and fc8."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.networks.model import AlexNet, initialise
from alexnet.networks.variants import variant
from narrow import narrow


class Half(nn.Module):
    """What one GPU computes, of plain layers; `whole` gives it its half of each layer's weights, without copying."""

    def __init__(self, whole: AlexNet, tower: int) -> None:
        super().__init__()
        filters = {
            name: len(getattr(whole, name).weight) // 2 for name in ("conv1", "conv2", "conv3", "conv4", "conv5")
        }
        units, seen = len(whole.fc6.weight) // 2, whole.fc6.weight.shape[1]
        own, both = filters, {name: 2 * count for name, count in filters.items()}
        self.conv1 = nn.Conv2d(3, own["conv1"], 11, stride=4, device="meta")
        self.conv2 = nn.Conv2d(own["conv1"], own["conv2"], 5, padding=2, device="meta")
        self.conv3 = nn.Conv2d(both["conv2"], own["conv3"], 3, padding=1, device="meta")
        self.conv4 = nn.Conv2d(own["conv3"], own["conv4"], 3, padding=1, device="meta")
        self.conv5 = nn.Conv2d(own["conv4"], own["conv5"], 3, padding=1, device="meta")
        self.fc6 = nn.Linear(seen, units, device="meta")
        self.fc7 = nn.Linear(2 * units, units, device="meta")
        for name, layer in self.named_children():
            for kind, empty in list(layer.named_parameters()):
                part = getattr(getattr(whole, name), kind).detach().chunk(2)[tower]
                assert part.shape == empty.shape, name
                setattr(layer, kind, nn.Parameter(part))

    def maps2(self, picture: Tensor) -> Tensor:
        """The picture -> the maps that the other tower's conv3 asks for."""
        x = F.pad(picture, (0, 3, 0, 3))
        x = F.local_response_norm(self.conv1(x), 5, alpha=1e-4, beta=0.75, k=2.0)
        x = F.relu(F.max_pool2d(x, 3, 2))
        x = F.local_response_norm(F.relu(self.conv2(x)), 5, alpha=1e-4, beta=0.75, k=2.0)
        within = F.avg_pool2d(x**2, 5, 1, padding=2, count_include_pad=True)
        return F.max_pool2d(x / (1 + 1e-3 * within) ** 0.75, 3, 2)

    def maps5(self, both: Tensor) -> Tensor:
        """Both towers' maps of conv2 -> this tower's of conv5."""
        x = F.relu(self.conv4(F.relu(self.conv3(both))))
        return F.relu(F.max_pool2d(self.conv5(x), 3, 2))


class Pair(nn.Module):
    """Two halves, and fc8 on the first GPU. `masks` are dropout's in training, for the units of both halves."""

    def __init__(self, whole: AlexNet) -> None:
        super().__init__()
        self.a, self.b = Half(whole, 0), Half(whole, 1)
        self.fc8 = nn.Linear(whole.fc8.in_features, whole.fc8.out_features, device="meta")
        self.fc8.weight, self.fc8.bias = (nn.Parameter(p.detach()) for p in (whole.fc8.weight, whole.fc8.bias))

    def forward(self, picture: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        both = torch.cat([self.a.maps2(picture), self.b.maps2(picture)], 1)
        x = torch.cat([self.a.maps5(both).flatten(1), self.b.maps5(both).flatten(1)], 1)
        for number, name in enumerate(("fc6", "fc7")):
            x = torch.cat([F.relu(getattr(half, name)(x)) for half in (self.a, self.b)], 1)
            x = x * (masks[number] if masks else 0.5)
        return self.fc8(x)


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def small() -> AlexNet:
    """Net 145 with few filters, and weights that let the signal through."""
    plan = narrow("alexnet2012")
    model = AlexNet(plan, 7, 3, plan.input).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            fan_in = parameter[0].numel()
            parameter.copy_(
                random(*parameter.shape, scale=(2 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.5, seed=seed)
            )
    return model


def test_two_half_networks_that_exchange_maps_answer_alike(small):
    x = random(3, 3, small.input, small.input, scale=40)
    y = small.eval()(x)
    torch.testing.assert_close(Pair(small)(x), y, rtol=1e-6, atol=1e-6)
    alone = Pair(small)
    alone.b.conv1.weight.data = torch.zeros_like(alone.b.conv1.weight)
    assert (alone(x) - y).abs().max() > 1, "the second half is not heard"


def test_two_half_networks_have_the_gradients_of_the_whole(small):
    x, labels = random(3, 3, small.input, small.input, scale=40), torch.tensor([0, 4, 6])
    masks = [(random(3, 24, seed=seed) > 0).double() for seed in (1, 2)]
    small.train().zero_grad()
    F.cross_entropy(small(x, dict(zip(("drop6", "drop7"), masks, strict=True))) / 100, labels).backward()
    halves = Pair(small)
    F.cross_entropy(halves(x, masks) / 100, labels).backward()
    torch.testing.assert_close(halves.fc8.weight.grad, small.fc8.weight.grad, rtol=1e-6, atol=1e-6)
    for name, parameter in small.named_parameters():
        if not name.startswith("fc8"):
            both = torch.cat([half.get_parameter(name).grad for half in (halves.a, halves.b)])
            torch.testing.assert_close(both, parameter.grad, rtol=1e-6, atol=1e-6, msg=name)
            assert parameter.grad.abs().max() > 1e-4, name


def test_at_full_size_two_half_networks_answer_alike():
    whole = AlexNet(variant("alexnet2012"), 1000, 3, 224).double().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        initialise(whole)
        picture = random(1, 3, 224, 224, scale=60)
        y = whole(picture)
        torch.testing.assert_close(Pair(whole)(picture), y, rtol=1e-6, atol=1e-6)
        assert y.std() > 0.01
