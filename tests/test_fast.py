"""The fast forms against float64 and torch's own layers, and the choice between fast and plain."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from alexnet.base.metrics import read
from alexnet.data import augment, augment_fast
from alexnet.data import augment_fast as augment_fast_
from alexnet.data.preprocess import Preprocess
from alexnet.networks import fast
from alexnet.networks.fast.cpu import blocks, compiler
from alexnet.networks.layers import LocalResponseNorm, WithinMapNorm
from alexnet.networks.model import seeded_build
from alexnet.training.loop import train
from conftest import TINY

pytestmark = pytest.mark.cpu

needs_compiler = pytest.mark.skipif(compiler.library()[0] is None, reason="no C++ compiler here")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def relu() -> nn.Module:
    return nn.ReLU()


def pool(kernel: int = 3, stride: int = 2) -> nn.Module:
    return nn.MaxPool2d(kernel, stride, ceil_mode=True)


def maps_norm(channels: int, towers: int, size: int = 5) -> nn.Module:
    return LocalResponseNorm(channels, towers, size, 0.02, 0.75, 2.0)


# Every order that the variants have, and what only a user's own net would have; alphas make the norms matter.
CASES = {
    "alexnet2012's conv1": (96, 11, [maps_norm(96, 2), pool(), relu()]),
    "alexnet2012's conv2": (64, 9, [relu(), maps_norm(64, 2), WithinMapNorm(5, 0.03, 0.75), pool()]),
    "the paper's": (32, 7, [relu(), maps_norm(32, 1), pool()]),
    "caffenet's": (32, 8, [relu(), pool(), maps_norm(32, 1)]),
    "alexnet32's": (64, 8, [pool(), relu(), maps_norm(64, 2)]),
    "torchvision's": (16, 6, [relu(), pool()]),
    "alexnet2012's conv5": (48, 13, [pool(), relu()]),
    "pooling without overlap": (32, 7, [pool(2, 2), relu()]),
    "windows of other sizes": (48, 9, [maps_norm(48, 1, 9), WithinMapNorm(3, 0.05, 0.75), pool(5, 3)]),
    "the 18 % net's, a norm alone": (32, 16, [WithinMapNorm(3, 0.05, 0.75)]),
    "LRN alone": (48, 6, [maps_norm(48, 1)]),
    "the widest LRN": (48, 5, [maps_norm(48, 1, 33)]),
    "no pooling": (32, 5, [relu(), maps_norm(32, 2, 3), WithinMapNorm(7, 0.05, 0.75)]),
    "everything": (32, 9, [relu(), maps_norm(32, 2), WithinMapNorm(5, 0.05, 0.75), pool(), relu(), maps_norm(32, 2)]),
}


def one_pass(layers: list[nn.Module]) -> blocks.Chain:
    (run,) = blocks.passes((str(i), layer) for i, layer in enumerate(layers))
    assert len(run.names) == len(layers)
    return run


def results(function, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and the gradient of a weighted sum of them, in the dtype of x."""
    x = x.detach().requires_grad_()
    y = function(x)
    (gradient,) = torch.autograd.grad(y, x, random(*y.shape, seed=1).to(x.dtype))
    return y.detach(), gradient


def stock(layers: list[nn.Module]):
    """The same from torch's own layers: nn.LocalResponseNorm for each tower, average pooling of squares."""

    def compute(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            if isinstance(layer, LocalResponseNorm):
                norm = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
                wide = x if x.dtype == torch.float64 else x.float()  # it has no bfloat16 form
                x = torch.cat([norm(tower) for tower in wide.chunk(layer.towers, 1)], 1).to(x.dtype)
            else:
                x = layer(x)
        return x

    return compute


def error(got: torch.Tensor, true: torch.Tensor) -> float:
    got, true = got.detach().double(), true.detach()
    return float((got - true).norm() / true.norm())


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_errors_against_float64_are_no_larger_than_stock_torchs(case, dtype):
    channels, side, layers = CASES[case]
    x = (8 * random(3, channels, side, side)).to(dtype)
    exact = results(stock([layer.double() for layer in layers]), x.double())
    for layer in layers:
        layer.to(torch.float32)
    got, usual = results(one_pass(layers), x), results(stock(layers), x)
    # Rounding of the result itself: half a unit in the last place, 24 and 8 bits.
    floor = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}[dtype]
    for mine, theirs, true in zip(got, usual, exact, strict=True):
        assert mine.dtype == dtype
        assert error(mine, true) <= max(error(theirs, true), floor), (error(mine, true), error(theirs, true))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [[relu(), pool()], [pool(), relu()], [pool(2, 2), relu()], [relu(), pool(3, 1)]])
def test_ties_and_not_a_number_go_where_torch_sends_them_bit_for_bit(layers, dtype):
    x = random(4, 32, 9, 10).mul(1.5).round().to(dtype)  # few values: most windows have ties, many at zero
    x[0, 3, 4, 4], x[1, 5, 0, 0], x[2, 6, 8, 9] = torch.nan, torch.inf, -torch.inf
    got, usual = results(one_pass(layers), x), results(nn.Sequential(*layers), x)
    torch.testing.assert_close(got[0], usual[0], rtol=0, atol=0, equal_nan=True)
    # A pixel under several windows adds their gradients: torch in x's precision, one pass in float32.
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got[1], usual[1], rtol=rounding, atol=rounding, equal_nan=True)
    assert torch.equal(got[1] == 0, usual[1] == 0)


@needs_compiler
@pytest.mark.parametrize(("name", "stride", "pad", "input"), [("a", 4, 0, 224), ("b", 4, 2, 64), ("c", 2, 1, 31)])
def test_a_strided_convolution_by_blocks_is_the_convolution(name, stride, pad, input):
    from alexnet.networks.fast.cpu.conv1 import passes
    from alexnet.networks.layers import LastWindow

    for layers in ([nn.Conv2d(3, 8, 11, stride, pad)], [LastWindow(11, stride, pad), nn.Conv2d(3, 8, 11, stride, pad)]):
        layer = nn.Sequential(*layers).to(torch.bfloat16)
        (form,) = passes([(str(i), one) for i, one in enumerate(layers)])
        assert form.layers == layers
        x = (50 * random(2, 3, input, input)).to(torch.bfloat16)
        y = form(x)
        g = random(*y.shape, seed=2).to(torch.bfloat16)
        got = [y, *torch.autograd.grad(y, list(layer.parameters()), g)]
        assert form(x.float()) is None  # in float32 the plain form is as fast
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(form(x.float()), y)
        layer.double()
        y = layer(x.double())
        exact = [y, *torch.autograd.grad(y, list(layer.parameters()), g.double())]
        for mine, true in zip(got, exact, strict=True):
            assert mine.shape == true.shape
            assert error(mine, true) < 2.0**-8


@needs_compiler
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noisy", [False, True])
def test_augmentation_in_one_pass_is_the_plain_functions_bit_for_bit(channels, noisy):
    source = augment.generator(1)
    pictures = torch.randint(0, 256, (5, channels, 40, 40), dtype=torch.uint8, generator=source)
    draws = augment.draw(5, 7, True, 20 * torch.ones(channels), source)
    assert draws.mirror.any()
    assert not draws.mirror.all()
    axes = torch.randn(channels, channels, generator=source)
    for mean in (100 * torch.rand(channels, 40, 40, generator=source), torch.full((channels, 1, 1), 117.3)):
        preprocess = Preprocess(40, 33, "L" if channels == 1 else "RGB", (57.6,), mean)
        plain = preprocess.subtract(augment.crop_and_mirror(pictures, draws, 33))
        plain = preprocess.divide(augment.add_colour(plain, draws, axes, 0.2) if noisy else plain)
        for layout in (torch.contiguous_format, torch.channels_last):
            stored = pictures.contiguous(memory_format=layout)
            got = augment_fast_.augmented(stored, draws, preprocess, axes if noisy else None, 0.2)
            assert torch.equal(got, plain)
            assert got.is_contiguous(memory_format=torch.channels_last)
    with fast.plain():
        assert augment_fast_.augmented(pictures, draws, preprocess, None) is None


# -- the choice ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_the_fast_forms_of_a_network_are_those_of_its_layers_and_give_its_outputs():
    model = seeded_build(0, "alexnet2012", 5, 3, 224).eval()
    x = 30 * random(2, 3, 224, 224)
    names = [one.names for one in fast.passes(model.named_layers, x, "fc8").values()]
    assert names == [
        ["conv1_edge", "conv1"], ["norm1", "pool1", "relu1"], ["relu2", "norm2", "norm2b", "pool2"], ["pool5", "relu5"],
    ]  # fmt: skip
    with torch.no_grad():
        for until in ("norm1", "pool1", "relu1", "norm2b", "conv3", "relu5", "fc8"):
            y = model(x, until=until)
            with fast.plain():
                torch.testing.assert_close(y, model(x, until=until), rtol=1e-3, atol=1e-3)


@needs_compiler
def test_forms_that_do_not_fit_give_way_to_the_plain_ones():
    model = seeded_build(0, "alexnet32", 5, 3, 28).eval()
    x = random(2, 3, 28, 28)
    firsts = ["pool1", "pool2", "pool5"]
    assert list(fast.passes(model.named_layers, x, "fc8")) == firsts
    assert list(fast.passes(model.named_layers, x, "relu1")) == firsts[1:]  # its run would go on to norm1
    assert not fast.passes(model.named_layers, x.double(), "fc8")
    assert not fast.passes(model.named_layers, x.to("meta"), "fc8")
    with fast.plain():
        assert not fast.passes(model.named_layers, x, "fc8")
    seen = []
    handle = model.relu2.register_forward_hook(lambda *_: seen.append(1))
    assert list(fast.passes(model.named_layers, x, "fc8")) == ["pool1", "pool5"]
    model(x)
    handle.remove()
    assert seen == [1]
    model.relu5 = nn.Tanh()  # layers are looked at when they are used
    assert list(fast.passes(model.named_layers, x, "fc8")) == ["pool1", "pool2"]
    tied = seeded_build(0, "alexnet32", 5, 3, 28, {"ties": "all"})
    assert [n for p in fast.passes(tied.named_layers, x, "fc8").values() for n in p.names if "pool" in n] == []
    assert blocks.passes([("norm", maps_norm(48, 1, 35))]) == []  # it sees further than there are zeros
    for norm, towers in ((maps_norm(32, 2), 2), (maps_norm(64, 2), 1)):  # made for other maps, for other towers
        norm.towers = towers
        assert one_pass([norm])(random(1, 64, 4, 4)) is None
    odd = [maps_norm(24, 2), relu()]  # 12 maps a tower do not fill a vector
    assert all(run(random(1, 24, 4, 4)) is None for run in blocks.passes((str(i), m) for i, m in enumerate(odd)))


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fast_and_plain_training_agree(tmp_path, folders, slim, precision):
    """Bit for bit they cannot: sums are in another order, and in bfloat16 the plain form rounds more often."""
    sets = [*TINY, f"precision={precision}", "max_steps=6"]
    said: list[str] = []
    train(folders, tmp_path / "fast", None, sets, say=said.append)
    with fast.plain():
        train(folders, tmp_path / "plain", None, sets)
    runs = [
        [line["loss"] for line in read(tmp_path / n / "metrics.jsonl") if line["kind"] == "step"]
        for n in ("fast", "plain")
    ]
    assert runs[0] == pytest.approx(runs[1], rel={"float32": 2e-3, "bfloat16": 0.1}[precision])
    assert any(line.startswith("layers: fast, as C++ compiled by ") for line in said), said


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads():
    run, x = one_pass(CASES["everything"][2]), 8 * random(5, 32, 9, 9)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(run, x)
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, results(run, x), strict=True))
    finally:
        torch.set_num_threads(threads)


# -- the compiler ------------------------------------------------------------------------------------------------------

PROGRAM = """
import torch
from alexnet.networks import fast
print(fast.choose(torch.device("cpu")))
"""


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Look for the compiled forms again, with $CXX and a cache of its own; what was found before comes back after."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))

    def look(cxx: Path | str) -> None:
        monkeypatch.setenv("CXX", str(cxx))
        look_again = cache(REAL.__wrapped__)
        for module in (compiler, augment_fast):
            monkeypatch.setattr(module, "library", look_again)

    return look


REAL = compiler.library


def script(path: Path, work: str) -> Path:
    """A compiler that says its version, and does that work."""
    path.write_text(f'#!/bin/sh\ntest "$1" = --version && echo {path.name} 1.0 && exit 0\n{work}\n')
    path.chmod(0o755)
    return path


def copying(path: Path) -> Path:
    """A compiler that takes half a second to give what the real one gave."""
    return script(path, f'while test "$1" != -o; do shift; done; sleep 0.5; cp "{REAL()[0]._name}" "$2"')


def forms() -> list[str]:
    """What takes the layers of a network, after a step of it."""
    model, x = seeded_build(0, "alexnet32", 5, 3, 28), torch.ones(2, 3, 28, 28)
    model(x).sum().backward()
    return list(fast.passes(model.named_layers, x, "fc8"))


def test_without_a_compiler_everything_works_and_one_line_says_so(anew, tmp_path, capfd):
    anew("no-such-compiler")
    assert fast.choose(torch.device("cpu")) == "layers: plain, because $CXX names no-such-compiler, which is not there"
    assert forms() == []
    assert capfd.readouterr().err.strip() == (
        "layers run in their plain form, at about half the speed: $CXX names no-such-compiler, which is not there"
    )
    anew(script(tmp_path / "broken", "echo 'x: error: no header' >&2; exit 1"))
    assert forms() == []
    err = capfd.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert err.strip().endswith("broken failed: x: error: no header")


def test_surroundings_in_which_nothing_can_be_compiled_leave_layers_plain(anew, tmp_path, monkeypatch):
    def chosen(cxx: Path | str) -> str:
        anew(cxx)
        return fast.choose(torch.device("cpu"))

    assert chosen('g++ "') == "layers: plain, because $CXX is 'g++ \"', which is no command (No closing quotation)"
    broken = script(tmp_path / "broken", "printf 'x: error: Fehler f\\374r Sie' >&2; exit 1")  # in Latin-1
    assert chosen(broken).endswith("broken failed: x: error: Fehler f\N{REPLACEMENT CHARACTER}r Sie")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ALEXNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert chosen(broken).endswith("there is no home folder to keep them in; $ALEXNET_CACHE may name another")


@needs_compiler
@pytest.mark.slow
def test_several_processes_compile_at_once_into_one_whole_file_that_later_ones_use(tmp_path):
    environment = {**os.environ, "ALEXNET_CACHE": str(tmp_path), "CXX": str(copying(tmp_path / "copies"))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    words = [sys.executable, "-c", PROGRAM]
    said = []
    for process in [subprocess.Popen(words, **pipes) for _ in range(2)]:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "layers: fast, as C++ compiled by copies 1.0\n"), err
        said.append("fast layers compiled" in err)
    assert any(said)
    (file,) = (tmp_path / "fast").iterdir()
    assert file.read_bytes() == Path(REAL()[0]._name).read_bytes()
    again = subprocess.run(words, timeout=120, **pipes)
    assert (again.stdout, again.stderr) == ("layers: fast, as C++ compiled by copies 1.0\n", "")


@needs_compiler
def test_a_file_that_others_may_write_is_not_loaded(anew, tmp_path, capfd):
    cxx = copying(tmp_path / "copies")
    anew(cxx)
    assert len(forms()) == 3
    (file,) = (tmp_path / "fast").iterdir()
    file.unlink()
    file.write_bytes(b"not ours")
    file.chmod(0o777)
    capfd.readouterr()
    anew(cxx)
    assert len(forms()) == 3
    assert "fast layers compiled" in capfd.readouterr().err
    assert file.read_bytes() != b"not ours"


@needs_compiler
@pytest.mark.parametrize("left", [b"", b"\x7fELF and no more"], ids=["empty", "cut short"])
def test_a_kept_file_that_cannot_be_loaded_is_compiled_once_anew(anew, tmp_path, capfd, monkeypatch, left):
    cxx = copying(tmp_path / "copies")
    anew(cxx)
    assert fast.choose(torch.device("cpu")) == "layers: fast, as C++ compiled by copies 1.0"
    (good,) = (tmp_path / "fast").iterdir()
    file = tmp_path / "elsewhere" / "fast" / good.name  # a path that was loaded is not looked at again
    file.parent.mkdir(parents=True)
    file.write_bytes(left)
    file.chmod(0o700)
    capfd.readouterr()
    anew(cxx)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "elsewhere"))
    assert len(forms()) == 3
    assert capfd.readouterr().err.count("fast layers compiled") == 1
    assert file.read_bytes() == Path(REAL()[0]._name).read_bytes()


def test_what_a_compiler_makes_and_the_system_cannot_load_leaves_layers_plain(anew, tmp_path, capfd):
    cxx = script(tmp_path / "other", 'while test "$1" != -o; do shift; done; echo "no library" > "$2"')
    for _ in range(2):  # the second finds the first one's file
        anew(cxx)
        assert forms() == []
        said, last = capfd.readouterr().err.strip().splitlines()
        assert said.startswith("fast layers compiled")
        assert last.startswith("layers run in their plain form, ")
        assert f"what {cxx} made cannot be loaded" in last
