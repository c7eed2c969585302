"""A GPU's three forms of a grouped convolution: the same numbers, and the choice among them by trial."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from alexnet.base.distributed import World
from alexnet.networks.fast import gpu
from alexnet.networks.fast.gpu import grouped
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import output_shape
from alexnet.networks.variants import VARIANTS, Conv
from alexnet.training.run import try_forms
from narrow import narrow

CPU = torch.device("cpu")


def kinds() -> set[tuple[int, ...]]:
    """All grouped convolutions of all variants: a quarter of the maps in and out, kernel, stride, padding, groups."""
    found = set()
    for plan in VARIANTS.values():
        shape: tuple[int, ...] = (3, plan.input, plan.input)
        for record in plan.layers:
            if isinstance(record, Conv) and record.groups > 1:
                found.add((shape[0] // 4, record.filters // 4, record.kernel, record.stride, record.pad, record.groups))
            shape = output_shape(record, shape, 10)
    return found


def test_all_forms_of_every_grouped_convolution_are_torchs_in_float64_forward_and_backward():
    every = kinds()
    assert len(every) > 3
    for number, (inputs, outputs, kernel, stride, padding, groups) in enumerate(sorted(every)):
        source = torch.Generator().manual_seed(number)

        def draw(*shape: int, source: torch.Generator = source) -> torch.Tensor:
            return torch.randn(shape, generator=source, dtype=torch.float64)

        x, weight = draw(2, inputs, 4, 3), draw(outputs, inputs // groups, kernel, kernel)
        results = []
        for one in (nn.functional.conv2d, *grouped.FORMS.values()):
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            usual = one is nn.functional.conv2d
            y = one(*leaves, None, stride, padding, 1, groups) if usual else one(*leaves, (stride, padding), groups)
            results.append([y.detach(), *torch.autograd.grad(y, leaves, torch.sin(y.detach()))])
        for got in results[1:]:
            for a, b in zip(got, results[0], strict=True):
                assert float((a - b).abs().max()) < 1e-9


@pytest.fixture
def card(monkeypatch):
    """A card of a name and the milliseconds that each form takes on it, of each layer."""
    it = SimpleNamespace(
        name="Some Card", taken={"as one product": 3.0, "tower by tower": 2.0, "as torch has them": 4.0}
    )
    it.tried = []

    def milliseconds(form, layer, shape, batch_size, device):
        it.tried.append((layer, tuple(shape), batch_size))
        return it.taken[next(name for name, one in grouped.FORMS.items() if one is form)]

    for asked in ("device_name", "card_of"):
        monkeypatch.setattr(grouped, asked, lambda device: it.name)
    monkeypatch.setattr(grouped, "_milliseconds", milliseconds)
    monkeypatch.setattr(grouped, "_tried", {})
    return it


def test_on_a_card_that_is_not_known_the_fastest_form_is_found_once_and_said(card):
    layers = [(nn.Conv2d(4, 4, 3, groups=2), (4, 9, 9)), (nn.Conv2d(4, 4, 3), (4, 9, 9))]
    assert grouped.form(CPU) is grouped.one_product
    assert grouped.try_out(layers, 5, CPU) == (
        "grouped convolutions: tower by tower, by trial on this GPU (as one product 3.00 ms, tower by tower 2.00 ms, "
        "as torch has them 4.00 ms)"
    )
    assert grouped.form(CPU) is grouped.towers_apart
    assert card.tried == [(layers[0][0], (4, 9, 9), 5)] * 3  # of the grouped one alone
    assert grouped.try_out(layers, 5, CPU) == ""
    card.name = next(iter(grouped.FASTEST))
    assert grouped.try_out(layers, 5, CPU) == ""
    assert len(card.tried) == 3


def test_where_results_must_repeat_no_clock_chooses(card, monkeypatch):
    layers = [(nn.Conv2d(4, 4, 3, groups=2), (4, 9, 9))]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert grouped.try_out(layers, 5, CPU) == ""
    grouped._tried[card.name] = "tower by tower"  # by an earlier run of this process
    assert grouped.form(CPU) is grouped.one_product
    assert not card.tried


def test_each_card_is_asked_for_its_name_once(monkeypatch):
    asked: list[torch.device] = []
    monkeypatch.setattr(grouped, "device_name", lambda device: asked.append(device) or f"Card {device.index}")
    monkeypatch.setattr(grouped, "card_of", cache(grouped.card_of.__wrapped__))  # the real one keeps what it is told
    monkeypatch.setattr(grouped, "_tried", {"Card 0": "tower by tower", "Card 1": "as torch has them"})
    cards = [torch.device("cuda", number) for number in (0, 1)]
    assert [grouped.form(one) for one in cards * 3] == [grouped.towers_apart, grouped.as_torch_has_it] * 3
    assert asked == cards


def test_the_time_of_a_form_is_the_mean_after_a_warm_up(monkeypatch):
    done: list[int] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = len(done)

        def synchronize(self) -> None:
            assert self.at == 3 + grouped.REPEATS

        def elapsed_time(self, end: Event) -> float:
            return 7.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert grouped.measured(lambda: done.append(1), CPU) == 7.0


def test_a_run_tries_the_forms_on_its_own_layers_and_the_maps_that_come_to_them(card, monkeypatch):
    model = AlexNet(narrow("alexnet2012"), 3, 3, 96)
    seen = {}
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.register_forward_hook(lambda m, given, y: seen.update({m: tuple(given[0].shape[1:])}))
    with torch.no_grad():
        model(torch.zeros(1, 3, 96, 96))
    monkeypatch.setattr(gpu, "here", lambda device: True)
    recipe = SimpleNamespace(batch_size=9, compile=False)
    run = SimpleNamespace(
        division=SimpleNamespace(part=model), world=World(0, 2, torch.device("cuda")), precision=torch.bfloat16,
        recipe=recipe, probes=False,
    )  # fmt: skip
    said: list[str] = []
    recipe.compile = True
    try_forms(run, said.append)
    assert not said
    recipe.compile = False
    try_forms(run, said.append)
    try_forms(run, said.append)
    assert len(said) == 1
    assert set(card.tried) == {(layer, shape, 5) for layer, shape in seen.items()}
    assert len(seen) == 3
