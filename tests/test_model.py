"""The networks against published counts, torchvision, written-out formulas and each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision

from alexnet.base.errors import AlexNetError
from alexnet.networks.layers import Dropout, LocalConv2d, LocalResponseNorm, WithinMapNorm
from alexnet.networks.model import build, seeded_build
from alexnet.networks.shapes import layer_facts, sizes
from alexnet.networks.variants import VARIANTS, variant


def on_meta(name: str, **options):
    with torch.device("meta"):
        return build(name, **options)


def facts(model):
    return layer_facts(model.variant, model.classes, model.channels, model.input)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet2012", 60_965_224),
        ("alexnet_paper", 60_965_224),
        ("bvlc_alexnet", 60_965_224),
        ("caffenet", 60_965_224),
        ("alexnet2012_nonorm", 60_965_224),
        ("alexnet2012_nonoverlap", 60_965_224),
        ("alexnet_single", 62_378_344),
        ("alexnet_owt", 61_100_840),
        ("alexnet2012_half", 59_798_312),
        ("alexnet2012_conv6", 61_555_304),
        ("alexnet2012_apart", 81_591_720),
        ("cifar10_18", 89_578),
        ("cifar10_13", 1_116_490),
        ("cifar10_11", 1_116_490),
    ],
)
def test_parameters_are_the_published_number(name, parameters):
    assert sum(p.numel() for p in on_meta(name, classes=variant(name).classes).parameters()) == parameters


def test_two_towers_take_the_published_multiply_adds():
    assert sum(layer.macs for layer in facts(on_meta("alexnet2012"))) == 724_406_816


def test_multiply_adds_are_those_of_torchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode

    model = on_meta("alexnet_owt")
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() == 2 * sum(layer.macs for layer in facts(model))


@pytest.mark.parametrize("name", ["alexnet64", "alexnet32"])
def test_small_nets_keep_the_plan_and_stay_below_ten_million_parameters(name):
    model = on_meta(name, classes=1000)
    assert sum(p.numel() for p in model.parameters()) <= 10_000_000
    weights = [n.removesuffix(".weight") for n, _ in model.named_parameters() if n.endswith("weight")]
    assert weights == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


@pytest.mark.parametrize("changes", [{}, {"ties": "all"}, {"activation": "tanh"}], ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_described_shapes_are_those_that_the_network_makes(name, changes):
    model = on_meta(name, classes=7, **changes)
    made = {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda layer, given, y, name=name: made.update({name: list(y.shape[1:])}))
    probabilities = model(torch.empty(2, 3, model.input, model.input, device="meta"), until="prob")
    made["prob"] = list(probabilities.shape[1:])
    for layer in facts(model):
        assert made[layer.name] == layer.output, layer.name


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_parameters_are_those_of_the_modules(name):
    model = on_meta(name, classes=7, channels=4)
    for layer in facts(model):
        assert sum(p.numel() for p in getattr(model, layer.name).parameters()) == layer.parameters, layer.name


@pytest.mark.parametrize("input", [224, 227])
def test_inputs_224_and_227_give_maps_of_55_27_13_and_6(input):
    outputs = {layer.name: layer.output[1:] for layer in facts(on_meta("alexnet2012", input=input))}
    assert [outputs[n] for n in ("conv1", "pool1", "pool2", "pool5")] == [[s, s] for s in (55, 27, 13, 6)]


def test_input_224_is_padded_by_three_zeros_at_right_and_bottom():
    model = on_meta("alexnet2012")
    edge = model.conv1_edge
    assert edge.fits(model.conv1)
    x = random(2, 3, 224, 224)
    assert torch.equal(edge(x), F.pad(x, (0, 3, 0, 3)))
    whole = random(2, 3, 227, 227)
    assert torch.equal(edge(whole), whole)


def test_a_size_that_the_plan_cannot_take_names_those_it_can():
    able = sizes(variant("alexnet2012"))
    assert 224 in able
    assert 227 in able
    with pytest.raises(AlexNetError, match=f"from {able.start} to {able.stop - 1}"):
        on_meta("alexnet2012", input=able.stop)
    with pytest.raises(AlexNetError, match="cannot take input 64"):
        on_meta("alexnet2012", input=64)
    on_meta("alexnet2012", input=able.start)(torch.empty(1, 3, able.start, able.start, device="meta"))


def test_pictures_of_another_shape_are_refused_by_name():
    with pytest.raises(ValueError, match=r"takes \(N, 3, 28, 28\)"):
        on_meta("alexnet32")(torch.empty(1, 3, 32, 32, device="meta"))


def test_a_local_layer_is_a_convolution_with_filters_of_its_own_at_every_position():
    layer = LocalConv2d(3, 4, 3, stride=2, pad=1, sides=(3, 4)).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = random(2, 3, 5, 8)
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.empty(2, 4, 3, 4, dtype=torch.float64)
    for row in range(3):
        for column in range(4):
            window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            for filter in range(4):
                here = (window * layer.weight[filter, row, column]).sum((1, 2, 3))
                expected[:, filter, row, column] = here + layer.bias[filter, row, column]
    torch.testing.assert_close(layer(x), expected)


def test_a_local_layer_whose_positions_share_their_filters_is_a_convolution():
    layer, conv = LocalConv2d(3, 4, 3, 1, 1, (6, 6)).double(), torch.nn.Conv2d(3, 4, 3, padding=1).double()
    with torch.no_grad():
        layer.weight.copy_(conv.weight[:, None, None].expand_as(layer.weight))
        layer.bias.copy_(conv.bias[:, None, None].expand_as(layer.bias))
    x = random(2, 3, 6, 6)
    torch.testing.assert_close(layer(x), conv(x))


@pytest.mark.parametrize("side", [5, 6])  # 6: the last window overhangs
def test_tied_maxima_send_the_gradient_to_the_first_or_to_all_as_asked(side):
    x = torch.randint(0, 3, (2, 3, side, side), generator=torch.Generator().manual_seed(0)).double()
    out = -(-(side - 3) // 2) + 1
    g = random(2, 3, out, out)
    expected = {"first": torch.zeros_like(x), "all": torch.zeros_like(x)}
    for n, c, row, column in torch.cartesian_prod(*map(torch.arange, (2, 3, out, out))).tolist():
        window = x[n, c, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        places = (window == window.max()).nonzero().tolist()  # in reading order
        for number, (dy, dx) in enumerate(places):
            for ties in ("first", "all") if number == 0 else ("all",):
                expected[ties][n, c, 2 * row + dy, 2 * column + dx] += g[n, c, row, column]
    assert not torch.equal(expected["first"], expected["all"])
    for ties, gradient in expected.items():
        own = build("alexnet32", ties=ties).pool1
        y = own(x.requires_grad_())
        assert torch.equal(y, F.max_pool2d(x, 3, 2, ceil_mode=True))
        torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], gradient)


def test_average_pooling_divides_by_what_is_left_of_an_overhanging_window():
    x = random(1, 1, 6, 6)
    y = on_meta("cifar10_18", classes=10).pool2(x)
    assert y.shape == (1, 1, 3, 3)
    torch.testing.assert_close(y[0, 0, 2, 2], x[0, 0, 4:, 4:].mean())
    torch.testing.assert_close(y[0, 0, 0, 2], x[0, 0, :3, 4:].mean())


def test_activation_tanh_puts_it_in_every_place_of_a_relu():
    relu, tanh = build("alexnet32", classes=3), build("alexnet32", classes=3, activation="tanh")
    tanh.load_state_dict(relu.state_dict())
    names = [name for name, _ in tanh.named_children()]
    assert names == [name.replace("relu", "tanh") for name, _ in relu.named_children()]
    x = random(2, 3, 28, 28, dtype=torch.float32)
    torch.testing.assert_close(tanh.eval()(x, until="tanh1"), tanh(x, until="pool1").tanh())


@pytest.mark.parametrize("change", [{"dropout": 1.0}, {"activation": "gelu"}, {"ties": "last"}, {"pooling": "mean"}])
def test_a_change_that_no_layer_takes_is_refused(change):
    with pytest.raises(AlexNetError, match=r"alexnet32 was asked for .*; it takes"):
        build("alexnet32", **change)


def test_any_number_of_classes_and_channels():
    model = on_meta("alexnet32", classes=3, channels=5)
    assert model(torch.empty(2, 5, 28, 28, device="meta")).shape == (2, 3)
    with pytest.raises(AlexNetError, match="0 classes"):
        on_meta("alexnet32", classes=0)


def test_an_unknown_variant_names_its_nearest():
    with pytest.raises(AlexNetError, match="did you mean 'alexnet2012'"):
        build("alexnet2021")


def test_alexnet_owt_computes_what_torchvisions_network_computes():
    torch.manual_seed(0)
    peer = torchvision.models.alexnet(weights=None, num_classes=12).eval()
    ours = build("alexnet_owt", classes=12).eval()
    theirs = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (0, 3, 6, 8, 10), strict=True))
    state = {f"{n}.{k}": peer.features[i].state_dict()[k] for n, i in theirs.items() for k in ("weight", "bias")}
    for name, i in {"fc6": 1, "fc7": 4, "fc8": 6}.items():
        state |= {f"{name}.{k}": peer.classifier[i].state_dict()[k] for k in ("weight", "bias")}
    ours.load_state_dict(state)
    x = random(2, 3, 224, 224, dtype=torch.float32)
    torch.testing.assert_close(ours(x), peer(x), rtol=0, atol=0)


def test_two_towers_of_one_convolution_see_their_own_maps_only():
    model = seeded_build(0, "alexnet2012", 5, 3, 224)
    half = torch.nn.Conv2d(48, 128, 5, padding=2)
    half.load_state_dict({"weight": model.conv2.weight[128:], "bias": model.conv2.bias[128:]})
    x = random(1, 96, 27, 27, dtype=torch.float32)
    torch.testing.assert_close(model.conv2(x)[:, 128:], half(x[:, 48:]), rtol=1e-4, atol=1e-4)


def test_grouped_fully_connected_towers_are_separate_layers():
    from alexnet.networks.layers import GroupedLinear

    whole = GroupedLinear(12, 10, 2).double()
    x = random(3, 12)
    for tower in range(2):
        weight, bias = whole.weight[5 * tower : 5 * tower + 5], whole.bias[5 * tower : 5 * tower + 5]
        expected = x[:, 6 * tower : 6 * tower + 6] @ weight.T + bias
        torch.testing.assert_close(whole(x)[:, 5 * tower : 5 * tower + 5], expected)


def test_pooling_without_overlap_has_the_sizes_of_net_147():
    outputs = {layer.name: layer.output[1] for layer in facts(on_meta("alexnet2012_nonoverlap")) if layer.output[1:]}
    assert [outputs[n] for n in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")] == [55, 28, 26, 13, 11, 6]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("alexnet2012", "conv1 norm1 pool1 relu1 conv2 relu2 norm2 norm2b pool2"),
        ("alexnet_paper", "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2"),
        ("caffenet", "conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2"),
        ("alexnet_bn", "conv1 norm1 relu1 pool1 conv2 norm2 relu2 pool2"),
    ],
)
def test_the_first_two_blocks_are_in_their_order(name, order):
    assert [layer.name for layer in variant(name).layers][: len(order.split())] == order.split()


def test_the_papers_printed_lrn_multiplies_the_plain_sum():
    norm = on_meta("alexnet_paper").norm1
    x = 30 * random(1, 96, 3, 3)
    layer = LocalResponseNorm(96, norm.towers, norm.size, norm.alpha, norm.beta, norm.k).double()
    i = 20
    expected = x[:, i] * (2 + 1e-4 * (x[:, i - 2 : i + 3] ** 2).sum(1)) ** -0.75
    torch.testing.assert_close(layer(x)[:, i], expected)


# -- normalisation ----------------------------------------------------------------------------------------------


def lrn_by_hand(x: torch.Tensor, towers: int, n: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """docs/facts.md 2.4, one map at a time."""
    per, y = x.shape[1] // towers, torch.empty_like(x)
    for i in range(x.shape[1]):
        tower = i // per
        first, last = max(tower * per, i - n // 2), min((tower + 1) * per - 1, i + n // 2)
        total = sum(x[:, j] ** 2 for j in range(first, last + 1))
        y[:, i] = x[:, i] * (k + alpha / n * total) ** -beta
    return y


@pytest.mark.parametrize(
    ("towers", "size", "alpha", "beta", "k"), [(1, 5, 1e-4, 0.75, 2.0), (2, 5, 0.1, 0.75, 1.0), (2, 3, 0.1, 0.5, 1.0)]
)
def test_lrn_is_the_formula_in_float64(towers, size, alpha, beta, k):
    x = 30 * random(2, 12, 4, 3)
    layer = LocalResponseNorm(12, towers, size, alpha, beta, k).double()
    torch.testing.assert_close(layer(x), lrn_by_hand(x, towers, size, alpha, beta, k), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [-1, 0, 2, 4])
def test_lrn_of_an_even_size_is_refused_and_a_size_stays_what_the_band_was_made_for(size):
    with pytest.raises(AlexNetError, match=f"was given a size of {size} maps; give an odd one"):
        LocalResponseNorm(12, 1, size, 0.1, 0.75, 1.0)
    with pytest.raises(AttributeError, match="size"):
        LocalResponseNorm(12, 1, 5, 0.1, 0.75, 1.0).size = size


def test_lrn_of_one_tower_is_torchs():
    x = 50 * random(2, 96, 5, 5, dtype=torch.float32)
    expected = F.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
    torch.testing.assert_close(LocalResponseNorm(96, 1, 5, 1e-4, 0.75, 2.0)(x), expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_lrn_are_those_of_finite_differences():
    x = (3 * random(2, 6, 2, 2)).requires_grad_()
    for beta in (0.75, 0.6):
        layer = LocalResponseNorm(6, 2, 5, 0.2, beta, 1.0).double()
        assert torch.autograd.gradcheck(layer, (x,))


def test_within_map_norm_is_the_formula_in_float64():
    x = 30 * random(2, 3, 7, 6)
    y = torch.empty_like(x)
    for r in range(7):
        for c in range(6):
            window = x[:, :, max(0, r - 2) : r + 3, max(0, c - 2) : c + 3]
            y[:, :, r, c] = x[:, :, r, c] * (1 + 1e-3 / 25 * (window**2).sum((2, 3))) ** -0.75
    torch.testing.assert_close(WithinMapNorm(5, 1e-3, 0.75).double()(x), y, rtol=1e-12, atol=0)


# -- dropout and weights ----------------------------------------------------------------------------------------


def test_dropout_of_2012_masks_in_training_and_halves_at_test():
    x, mask = random(4, 10), (random(4, 10, seed=1) > 0).double()
    layer = Dropout(0.5, inverted=False)
    assert torch.equal(layer.train()(x, mask), x * mask)
    assert torch.equal(layer.eval()(x), x * 0.5)


def test_inverted_dropout_rescales_in_training_only():
    x, mask = random(4, 10), (random(4, 10, seed=1) > 0).double()
    layer = Dropout(0.25, inverted=True)
    torch.testing.assert_close(layer.train()(x, mask), x * mask / 0.75)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_drops_its_share_without_a_given_mask():
    torch.manual_seed(0)
    kept = Dropout(0.3, inverted=False).train()(torch.ones(100, 100)).mean()
    assert abs(kept - 0.7) < 0.02


def test_first_weights_are_the_authors():
    model = seeded_build(0, "alexnet2012", 1000, 3, 224)
    sigma = {"conv1": 0.01, "conv2": 0.01, "conv3": 0.03, "conv4": 0.03, "conv5": 0.03, "fc6": 0.01, "fc7": 0.01}
    for name, std in {**sigma, "fc8": 0.01}.items():
        layer = getattr(model, name)
        assert abs(layer.weight.std() / std - 1) < 0.02, name
        assert torch.equal(layer.bias, torch.full_like(layer.bias, float(name not in ("conv1", "conv3", "fc8"))))


def test_first_weights_that_keep_the_variance_have_it_and_no_filter_a_mean():
    plan = VARIANTS["alexnet64"]
    model = seeded_build(0, "alexnet64", 1000, 3, plan.input)
    kept = [one.name for one in plan.layers if getattr(one, "std", None) == "he"]
    assert len(kept) > 3
    for name in kept:
        weight = getattr(model, name).weight.double()
        fan_in = weight[0].numel()
        assert abs(weight.std() / (2 / fan_in) ** 0.5 - 1) < 0.03, name
        assert weight.flatten(1).mean(1).abs().max() < 1e-7, name


def test_first_weights_are_a_function_of_the_seed_alone_and_reset_no_gpus(monkeypatch):
    before, reset = torch.get_rng_state(), []
    for device in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(device, name, reset.append, raising=False)
    monkeypatch.setattr(torch.mps, "_is_in_bad_fork", lambda: False)
    one, same, other = (seeded_build(seed, "alexnet32", 3, 3, 28).fc6.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    assert reset == []
    with torch.device("meta"):
        assert torch.equal(one, seeded_build(1, "alexnet32", 3, 3, 28).fc6.weight)


def test_every_parameter_receives_a_gradient():
    model = seeded_build(0, "alexnet64", 4, 3, 56)
    loss = F.cross_entropy(model(random(4, 3, 56, 56, dtype=torch.float32)), torch.arange(4))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
