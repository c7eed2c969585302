"""The GPU's passes over layers against float64: on a GPU as they are (TEST_DEVICE=cuda), on a CPU interpreted."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from alexnet.base.errors import AlexNetError
from alexnet.networks.fast import gpu
from alexnet.networks.fast.gpu import convolutions, dropout, stages, stretches
from alexnet.networks.layers import Dropout, LastWindow, LocalResponseNorm, WithinMapNorm
from conftest import DEVICE
from interpreted import MARKS, triton

pytestmark = MARKS
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}  # relative


@pytest.fixture(autouse=True)
def in_the_interpreter(monkeypatch):
    monkeypatch.setattr(gpu, "ON_CPU", DEVICE.type == "cpu")


def relu() -> nn.Module:
    return nn.ReLU()


def pool(kernel: int = 3, stride: int = 2, ceil: bool = True) -> nn.Module:
    return nn.MaxPool2d(kernel, stride, ceil_mode=ceil)


def across(channels: int, towers: int, size: int = 5, beta: float = 0.75) -> nn.Module:
    return LocalResponseNorm(channels, towers, size, 0.02 * size, beta, 2.0)


def within(size: int = 5) -> nn.Module:
    return WithinMapNorm(size, 0.03 * size, 0.75)


# What follows a convolution of so many filters on maps of so many pixels; alphas make the norms matter.
CASES = {
    "alexnet2012's conv1": (12, 9, [across(12, 2), pool(), relu()]),
    "alexnet2012's conv2": (20, 9, [relu(), across(20, 2), within(), pool()]),
    "the paper's": (7, 6, [relu(), across(7, 1), pool()]),
    "caffenet's": (9, 8, [relu(), pool(), across(9, 1)]),
    "alexnet32's": (8, 7, [pool(), relu(), across(8, 2)]),
    "torchvision's": (5, 7, [relu(), pool(ceil=False)]),
    "windows that overhang": (5, 8, [relu(), pool()]),
    "conv3's": (33, 5, [relu()]),
    "a row": (5, 3, [pool(), relu()]),
    "a tower wider than a window": (150, 3, [relu(), across(150, 1)]),
    "two towers wider than a window": (300, 2, [relu(), across(300, 2, 9)]),
    "wide, without a norm": (150, 4, [pool(), relu()]),
    "pooling without overlap": (6, 7, [pool(2, 2), relu()]),
    "windows of other sizes": (10, 8, [across(10, 1, 9), within(3), pool(5, 3)]),
    "the 18 % net's": (6, 8, [pool(), relu()]),
    "a norm within maps": (6, 5, [within(3)]),
    "nothing": (6, 5, []),
}


def named(layers: list[nn.Module]) -> list[tuple[str, nn.Module]]:
    return [(f"layer{i}", layer) for i, layer in enumerate(layers)]


def selecting(channels: int) -> nn.Module:
    """A convolution whose outputs are its inputs, unrounded: of a near tie another would be the maximum."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, channels, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4).repeat(-(-channels // 4), 1)[:channels, :, None, None])
    return layer


def outcome(layers: list[nn.Module], x: torch.Tensor, weigh: torch.Tensor, found=None) -> list[torch.Tensor]:
    """Output and gradients, of the input too, of the layers one by one or of the passes over them."""
    x = x.detach().requires_grad_()
    y = x
    for one in layers if found is None else found:
        y = one(y)
    (y * weigh.to(y)).sum().backward()
    parameters = [p for layer in layers for p in layer.parameters()]
    return [y.detach(), x.grad, *(p.grad for p in parameters)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_stretch_is_its_layers_in_float64(name, dtype):
    channels, side, after = CASES[name]
    layers = [selecting(channels), *after]
    x = 5 * torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))
    x = x.to(dtype)  # the same numbers for both
    truth = [copy.deepcopy(layer).double() for layer in layers]
    with torch.no_grad():
        for one, other in zip(truth, layers, strict=True):
            for a, b in zip(one.parameters(), other.parameters(), strict=True):
                a.copy_(b.to(dtype))
                b.copy_(b.to(dtype))
    weigh = torch.randn(torch.Size(nn.Sequential(*truth)(x.double()).shape), generator=torch.Generator().manual_seed(2))
    wanted = outcome(truth if dtype == torch.float32 else as_written(truth), x.double(), weigh)
    here = [layer.to(DEVICE, dtype) for layer in map(copy.deepcopy, layers)]
    found = stretches.passes(named(here))
    got = outcome(here, x.to(DEVICE), weigh, found)
    assert [name for one in found for name in one.names] == [name for name, _ in named(here)]
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        assert off(a, b) < TOLERANCE[dtype]


class Written(nn.Module):
    """Numbers as a pass writes them in bfloat16, which Triton's interpreter cuts off; gradients pass as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        number = x.detach().float()
        cut = (number.view(torch.int32) & -65536).view(torch.float32)
        return x + ((cut if DEVICE.type == "cpu" else number.bfloat16()).double() - x).detach()


def as_written(layers: list[nn.Module]) -> list[nn.Module]:
    """The layers with pooling choosing among numbers that the pass of the norm before it has written."""
    norms = (LocalResponseNorm, WithinMapNorm)
    return [nn.Sequential(one, Written()) if isinstance(one, norms) else one for one in layers]


def off(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float((x.double().cpu() - truth).norm() / truth.norm())


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_relu_and_dropout_in_one_pass_are_the_two_layers(dtype, inverted):
    layers = [relu(), Dropout(0.4, inverted)]
    source = torch.Generator().manual_seed(0)
    x, g, v = torch.randn(3, 5, 230, generator=source).to(DEVICE, dtype)
    mask = (torch.rand(5, 230, generator=source) < 0.6).float().to(DEVICE)
    x[0, 0], x.requires_grad, g.requires_grad = 0.0, True, True
    (one,) = dropout.passes(named(layers), {"layer1": mask})
    outcomes = []
    for y in (layers[1](layers[0](x), mask), one(x)):
        (first,) = torch.autograd.grad(y, x, g, retain_graph=True)
        (again,) = torch.autograd.grad(y, x, g, create_graph=True)
        outcomes.append([y, first, again, *torch.autograd.grad(again, g, v)])
    # Triton's interpreter cuts bfloat16 off where a GPU rounds, and a GPU divides otherwise in torch than in Triton.
    exact = not inverted or (DEVICE.type, dtype) == ("cpu", torch.float32)
    rounding = 0.0 if exact else TOLERANCE[dtype]
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=rounding, atol=0)


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, in the interpreter
def test_of_numbers_that_are_none_dropout_makes_what_the_two_layers_make():
    x = torch.tensor([[torch.nan, torch.inf, torch.inf, -torch.inf]], device=DEVICE)
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]], device=DEVICE)
    layers = [relu(), Dropout(0.5, False)]
    (one,) = dropout.passes(named(layers), {"layer1": mask})
    torch.testing.assert_close(one(x), layers[1](layers[0](x), mask), rtol=0, atol=0, equal_nan=True)
    layers[1].eval()
    assert one(x) is None


@pytest.mark.parametrize("change", [{"towers": 1}, {"band": torch.ones(4, 2, 1, 1)}], ids=["towers", "band"])
def test_a_norm_made_for_other_maps_or_towers_gives_way_to_its_plain_form(change):
    norm = across(8, 2)
    vars(norm).update(change)
    (one,) = stretches.passes(named([nn.Conv2d(4, 8, 1, device=DEVICE), norm]))
    assert one(torch.randn(2, 4, 3, 3, device=DEVICE)) is None


@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (5, 3)])
def test_of_tied_maxima_the_first_gets_the_gradient(kernel, stride, ceil):
    x = torch.randint(-1, 2, (2, 6, 11, 8), generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    layers = [pool(kernel, stride, ceil), relu()]
    wanted = outcome(layers, x, torch.ones(()))
    got = outcome(layers, x, torch.ones(()), stretches.passes(named(layers)))
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


def test_a_number_that_is_none_stays_to_be_seen_and_huge_ones_stay_finite():
    layers = [relu(), across(6, 1), pool()]
    x = torch.full((1, 6, 4, 4), 1e15, device=DEVICE)
    (one,) = stretches.passes(named(layers))
    assert torch.isfinite(one(x)).all()
    x[0, 0, 0, 0] = torch.nan
    assert torch.isnan(one(x)[0, 0, 0, 0])


@pytest.mark.parametrize(("filled", "pad"), [(False, 2), (True, 0)])
@pytest.mark.parametrize(("kernel", "stride", "channels", "side"), [(11, 4, 3, 32), (5, 2, 1, 13), (3, 3, 2, 10)])
def test_a_convolution_over_blocks_of_pixels_is_the_convolution(filled, pad, kernel, stride, channels, side):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 6, kernel, stride, pad).to(DEVICE)
    x = torch.randn(2, channels, side, side + 1, device=DEVICE)
    got = convolutions.convolve(layer, x, torch.float32, filled) + layer.bias[:, None, None]
    wanted = layer(LastWindow(kernel, stride, pad)(x) if filled else x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_second_derivatives_and_batches_of_gradients_are_refused_with_a_way_out():
    layers = [nn.Conv2d(3, 4, 3).to(DEVICE), relu(), across(4, 1)]
    (one,) = stretches.passes(named(layers))
    x = torch.randn(1, 3, 5, 5, device=DEVICE, requires_grad=True)
    with pytest.raises(AlexNetError, match=r"within alexnet\.fast\.plain"):
        torch.autograd.grad(one(x).sum(), x, create_graph=True)
    y = one(x)
    with pytest.raises(AlexNetError, match=r"within alexnet\.fast\.plain"):
        torch.autograd.grad(y, x, torch.ones(2, *y.shape, device=DEVICE), is_grads_batched=True)


def test_outputs_of_a_stretch_have_the_layout_of_the_pictures():
    layers = [nn.Conv2d(3, 4, 3).to(DEVICE), relu(), across(4, 1)]
    (one,) = stretches.passes(named(layers))
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 6, 5, device=DEVICE).contiguous(memory_format=form)
        assert one(x).is_contiguous(memory_format=form)


def test_what_somebody_asks_a_gradient_of_keeps_it():
    model = nn.Conv2d(3, 4, 5, 2).to(DEVICE)
    x = torch.randn(1, 3, 9, 9, device=DEVICE, requires_grad=True)
    (one,) = stretches.passes([("conv1", model)])
    one(x).sum().backward()
    got, x.grad = x.grad, None
    model(x).sum().backward()
    torch.testing.assert_close(got, x.grad)


@pytest.mark.cpu
def test_a_kernel_is_launched_on_the_gpu_that_its_tensors_lie_on(monkeypatch):
    launched, here = [], []

    @contextmanager
    def device(chosen):
        here.append(chosen)
        yield
        here.pop()

    class Fake:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: launched.append((grid, list(here)))

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(gpu, "kernels", lambda: (SimpleNamespace(some=Fake()), ""))
    gpu.Kernel("some")[(3,)](SimpleNamespace(device=torch.device("cuda", 1)), 4, SIZE=5)
    assert launched == [((3,), [torch.device("cuda", 1)])]


@pytest.mark.cpu
def test_a_kernel_that_a_gpu_has_no_room_for_is_one_sentence(monkeypatch):
    class Full:
        def __getitem__(self, grid):
            return mock.Mock(side_effect=triton.runtime.errors.OutOfResources(131072, 101376, "shared memory"))

    monkeypatch.setattr(gpu, "kernels", lambda: (SimpleNamespace(some=Full()), ""))
    with pytest.raises(AlexNetError, match=r"the pass some for this GPU \(out of resource: shared memory.*plain\(\)"):
        gpu.Kernel("some")[(1,)](torch.zeros(1))


@pytest.mark.cpu
@pytest.mark.parametrize(("kind", "words"), [("mps", "not for mps"), ("cuda", "not for AMD's")])
def test_who_has_another_gpu_is_not_told_to_install_triton(kind, words, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(gpu, "kernels", lambda: (None, "plain: Triton is not installed"))
    assert gpu.usable.__wrapped__(torch.device(kind)) == (
        False, f"plain; there are fast forms for CPUs and Nvidia's GPUs, {words}"
    )  # fmt: skip


@pytest.mark.cpu
def test_a_triton_that_cannot_be_loaded_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "alexnet.networks.fast.gpu.triton_kernels", None)
    monkeypatch.delattr(gpu, "triton_kernels", raising=False)
    assert gpu.kernels.__wrapped__()[1].startswith("plain: Triton is not installed")
    finder = SimpleNamespace(find_spec=mock.Mock(side_effect=AttributeError("more\nno attribute 'newer'")))
    monkeypatch.delitem(sys.modules, "alexnet.networks.fast.gpu.triton_kernels")
    monkeypatch.setattr(sys, "meta_path", [finder])
    assert gpu.kernels.__wrapped__() == (None, "plain; Triton cannot be loaded here (no attribute 'newer')")


def test_passes_that_nobody_learns_by_keep_nothing_for_a_gradient(monkeypatch):
    layers = [nn.Conv2d(3, 4, 3).to(DEVICE), pool(), relu()]
    (one,) = stretches.passes(named(layers))
    kept = []
    real = stages._stage
    monkeypatch.setattr(stages, "_stage", lambda *given: kept.append(given[-1]) or real(*given))
    x = torch.randn(1, 3, 9, 9, device=DEVICE)
    with torch.no_grad():
        without = one(x)
    assert torch.equal(one(x), without)
    assert kept == [False, True]


@pytest.mark.cpu
def test_where_triton_cannot_build_a_kernel_layers_are_plain_and_one_line_says_why(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu, "tried", mock.Mock(side_effect=RuntimeError("Failed to find C compiler.")))
    able, words = gpu.usable.__wrapped__(torch.device("cuda"))
    assert not able
    assert words == "plain; Triton's passes cannot be built here (Failed to find C compiler.)"


def test_the_kernel_that_is_tried_first_gives_what_it_should(monkeypatch):
    gpu.tried(DEVICE)
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    with pytest.raises(RuntimeError, match="four numbers"):
        gpu.tried(DEVICE)


@pytest.mark.slow
@pytest.mark.cpu
def test_kernels_compile_for_gpus_that_are_not_here_and_fit_their_shared_memory():
    script = Path(__file__).with_name("compile_kernels.py")  # without names it compiles those of every variant
    variants = ["alexnet2012", "bvlc_alexnet"]
    ran = subprocess.run([sys.executable, script, *variants], capture_output=True, text=True, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
