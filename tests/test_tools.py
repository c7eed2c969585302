"""The networks in the hands of others' tools: every variant by every tool, and whatever a user can watch or change."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from alexnet.backbone import Backbone
from alexnet.inference.features import outputs
from alexnet.networks import fast, layers
from alexnet.networks.fast.cpu import compiler
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS
from narrow import narrow

# Between them they have every kind of layer in every order; the others are their relatives.
KINDS = (
    "alexnet2012", "alexnet_paper", "caffenet", "alexnet_owt", "alexnet_bn", "alexnet2012_apart", "cifar10_18",
    "cifar10_11", "alexnet32",
)  # fmt: skip
every_variant = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow]) for name in VARIANTS]
)
needs_compiler = pytest.mark.skipif(compiler.library()[0] is None, reason="no C++ compiler here")


def net(name: str, **changes) -> AlexNet:
    """The variant, narrow, with weights that let the signal through: the authors' would hide most of a difference."""
    plan = narrow(name)
    model = AlexNet(plan, 7, 3, plan.input, changes)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            many = parameter.dim() > 1
            scale = (2 / parameter[0].numel()) ** 0.5 if many else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=source))
    return model.eval()


def pictures(model: AlexNet, count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return 30 * torch.randn(count, 3, model.input, model.input, generator=source).to(dtype)


def close(one: Tensor, other: Tensor, share: float = 1e-4) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().norm()) <= share * float(other.detach().norm())


def in_plain(model: AlexNet, x: Tensor) -> Tensor:
    with fast.plain():
        return model(x)


# -- every variant by every tool -----------------------------------------------------------------------------------


def reloaded(saved: Callable[[io.BytesIO], object], load: Callable[[io.BytesIO], nn.Module]) -> nn.Module:
    file = io.BytesIO()
    saved(file)
    return load(io.BytesIO(file.getvalue()))


def by_fx(model: AlexNet, x: Tensor) -> nn.Module:
    form = torch.fx.symbolic_trace(model)
    with pytest.raises(TypeError):  # rather than left out in silence
        form(x, until="conv1")
    return form


def by_extractor(model: AlexNet, x: Tensor) -> nn.Module:
    form = create_feature_extractor(model, {"conv2": "maps", model.logits: "out"})
    close(form(x)["maps"], model(x, until="conv2"))
    return lambda pictures: form(pictures)["out"]


def by_trace(model: AlexNet, x: Tensor) -> nn.Module:
    form = torch.jit.trace(model, x)
    return reloaded(lambda file: torch.jit.save(form, file), torch.jit.load)


def by_script(model: AlexNet, x: Tensor) -> nn.Module:
    form = torch.jit.script(model)
    return reloaded(lambda file: torch.jit.save(form, file), torch.jit.load)


def by_export(model: AlexNet, x: Tensor) -> nn.Module:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in names), names
    return reloaded(lambda file: torch.export.save(program, file), torch.export.load).module()


def by_pickle(model: AlexNet, x: Tensor) -> nn.Module:
    return reloaded(lambda file: torch.save(model, file), lambda file: torch.load(file, weights_only=False))


def by_row(model: AlexNet, x: Tensor) -> nn.Module:
    return nn.Sequential(*model.children())


def by_compile(model: AlexNet, x: Tensor) -> nn.Module:
    torch._dynamo.reset()  # it compiles a function eight times at most
    return torch.compile(model, fullgraph=True, backend="eager")


TOOLS: dict[str, Callable[[AlexNet, Tensor], Callable[[Tensor], Tensor]]] = {
    "torch.fx": by_fx,
    "create_feature_extractor": by_extractor,
    "torch.jit.trace": by_trace,
    "torch.jit.script": by_script,
    "torch.export": by_export,
    "deepcopy": lambda model, x: copy.deepcopy(model),
    "pickle": by_pickle,
    "its children in a row": by_row,
    "torch.compile": by_compile,
    "functional_call": lambda model, x: (
        lambda pictures: torch.func.functional_call(model, dict(model.named_parameters()), (pictures,))
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it will drop
@pytest.mark.parametrize("tool", TOOLS)
@every_variant
def test_a_tools_form_of_every_variant_gives_its_logits(name, tool):
    if tool == "torch.export" and name in ("cifar10_13", "cifar10_11") and torch.__version__ < "2.12":
        pytest.skip("of local layers torch 2.11 cannot see that they take any number of pictures")
    model = net(name)
    x = pictures(model)
    form = TOOLS[tool](model, x)
    with torch.no_grad():
        more = torch.cat([x, x.flip(0)])
        close(form(more), model(more))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", ["torch.fx", "torch.jit.script"])
@pytest.mark.parametrize("name", ["alexnet2012", "alexnet_owt"])
def test_dropout_of_a_tools_form_follows_its_mode(name, tool):
    model = net(name).train()
    x = pictures(model)
    form = {"torch.fx": torch.fx.symbolic_trace, "torch.jit.script": torch.jit.script}[tool](model)
    assert not torch.equal(form(x), form(x))
    form.eval()
    close(form(x), model.eval()(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_of_torchs_exporter_gives_the_logits(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = net("alexnet2012")
    x = pictures(model)
    torch.onnx.export(model, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    close(torch.from_numpy(got), model(x))


# -- derivatives ---------------------------------------------------------------------------------------------------

OWN = {
    "LRN": lambda: layers.LocalResponseNorm(6, 2, 3, 0.2, 0.75, 1.0),
    "LRN of another power": lambda: layers.LocalResponseNorm(6, 1, 5, 0.2, 0.6, 2.0),
    "norm within maps": lambda: layers.WithinMapNorm(3, 0.3, 0.75),
    "pooling by all ties": lambda: layers.AllTiesMaxPool2d(3, 2),
    "local": lambda: layers.LocalConv2d(6, 2, 3, 1, 1, (4, 4)),
    "the last window": lambda: layers.LastWindow(3, 2, 0),
}


def own(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = OWN[name]().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, torch.randn(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", OWN)
def test_derivatives_of_every_own_layer_are_those_of_finite_differences(name):
    layer, x = own(name)
    assert gradcheck(layer, (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(layer, (x,), check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("name", OWN)
def test_every_own_layer_maps_over_a_batch_and_compiles_whole(name):
    layer, x = own(name)
    several = torch.cat([x, x.flip(1)])
    close(torch.vmap(lambda one: layer(one[None])[0])(several), layer(several))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    (got,), (wanted,) = (torch.autograd.grad((form(x) ** 2).sum(), x) for form in (compiled, layer))
    close(got, wanted)


def second(model: AlexNet, x: Tensor) -> list[Tensor]:
    """Products with second derivatives of the logits' squares, by the pictures and by the first layer's weights."""
    x = x.detach().requires_grad_()
    given = (x, model.conv1.weight)
    first = torch.autograd.grad((model(x) ** 2).sum(), given, create_graph=True)
    return list(torch.autograd.grad(sum((one**2).sum() for one in first), given))


@every_variant
def test_second_derivatives_of_every_variant_are_those_in_float64(name):
    model = net(name)
    with fast.plain():
        wanted = second(copy.deepcopy(model).double(), pictures(model).double())
    for form in (nullcontext, fast.plain):
        with form():
            for one, other in zip(second(model, pictures(model)), wanted, strict=True):
                close(one.double(), other, 5e-3)


@every_variant
def test_transforms_of_every_variant_give_its_derivatives(name):
    model = net(name)
    x, labels = pictures(model), torch.tensor([0, 1])
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters: dict, one: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, (parameters, buffers), (one[None],))
        return F.cross_entropy(logits, label[None])

    each = torch.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, labels)
    F.cross_entropy(model(x), labels, reduction="sum").backward()
    greatest = max(float(p.grad.abs().max()) for p in model.parameters())
    for one, parameter in parameters.items():
        torch.testing.assert_close(each[one].sum(0), parameter.grad, rtol=1e-3, atol=1e-4 * greatest)
    # Forward mode, in both of torch's ways, is the transpose of reverse mode.
    t, g = torch.randn_like(x), torch.randn(2, 7)
    x.requires_grad_()
    _, tangent = torch.func.jvp(model, (x.detach(),), (t,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(model(forward_ad.make_dual(x.detach(), t))).tangent
    (gradient,) = torch.autograd.grad(model(x), x, g)
    close(dual, tangent)
    torch.testing.assert_close((tangent * g).sum(), (gradient * t).sum(), rtol=1e-2, atol=1e-5)


@needs_compiler
def test_batches_of_gradients_are_those_one_by_one():
    model = net("alexnet2012")
    x = pictures(model, 1).requires_grad_()
    assert fast.passes(model.named_layers, x, model.logits)
    y = model(x)
    batch = torch.autograd.grad(y, x, torch.eye(7)[:, None], is_grads_batched=True, retain_graph=True)[0]
    for one, unit in zip(batch, torch.eye(7), strict=True):
        close(one, torch.autograd.grad(y, x, unit[None], retain_graph=True)[0])


# -- whatever a user can watch or change ---------------------------------------------------------------------------


class Halving(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Adapter(nn.Module):
    """As low-rank adapters wrap a layer."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Checkpointed(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, *more) -> Tensor:
        return checkpoint(self.base, x, *more, use_reentrant=False)


def shared_relu(model: AlexNet) -> None:
    one = nn.ReLU()
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.ReLU):
            setattr(model, name, one)


def wrapped(model: AlexNet) -> None:
    for name, layer in list(model.named_children()):
        setattr(model, name, Checkpointed(layer))


def adapted(model: AlexNet) -> None:
    for name in ("fc6", "fc8"):
        layer = getattr(model, name)
        setattr(model, name, Adapter(layer, layer.in_features, layer.out_features))
        nn.init.zeros_(getattr(model, name).up.weight)


def parametrized(model: AlexNet) -> None:
    for name in ("conv1", "fc6"):
        parametrize.register_parametrization(getattr(model, name), "weight", nn.Identity())
    parametrizations.weight_norm(model.fc7)


def pruned(model: AlexNet) -> None:
    for name in ("conv1", "fc6"):
        prune.identity(getattr(model, name), "weight")


CHANGES = {
    "one ReLU in every place": shared_relu, "a checkpoint around each layer": wrapped, "adapters": adapted,
    "parametrized": parametrized, "pruned": pruned, "channels last": lambda m: m.to(memory_format=torch.channels_last),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["alexnet2012", "alexnet_owt", "alexnet32", "alexnet_bn"])
def test_changes_that_compute_the_same_give_the_same_logits_and_gradients(name, change):
    plain, changed = net(name), net(name)
    CHANGES[change](changed)
    x, gradients = pictures(plain), []
    for model in (plain, changed):
        given = x.clone().requires_grad_()
        y = model(given)
        gradients.append((y, torch.autograd.grad(y.sum(), given)[0]))
    for one, other in zip(*gradients, strict=True):
        close(one, other)
    masks = {drop: torch.ones(2, units) for drop, (units, _) in plain.dropouts.items()}
    if change != "adapters":
        close(changed.train()(x, masks), plain.train()(x, masks))


@pytest.mark.filterwarnings("ignore")
def test_fully_connected_layers_of_eight_bits_take_the_maps():
    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    model = net("alexnet2012")
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert type(small.fc6) is not nn.Linear
    close(small(pictures(model)), model(pictures(model)), 0.1)


def test_masks_of_layers_that_take_none_are_refused():
    model = net("alexnet2012").train()
    with pytest.raises(ValueError, match="no dropout layer 'drop9' to mask; it has drop6, drop7"):
        model(pictures(model), {"drop9": torch.ones(2, 24)})
    model.drop6 = nn.Identity()
    with pytest.raises(TypeError):
        model(pictures(model), {"drop6": torch.ones(2, 24)})


@needs_compiler
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("alexnet2012", ["conv1_edge", "norm1", "relu2", "pool5"]),
        ("alexnet_paper", ["conv1_edge", "relu1", "relu2", "relu5"]),
        ("caffenet", ["conv1_edge", "relu1", "relu2", "relu5"]),
        ("alexnet_owt", ["conv1", "relu1", "relu2", "relu5"]),
        ("alexnet64", ["conv1", "pool1", "pool2", "pool5"]),
        ("cifar10_18", ["pool1", "norm1", "norm2"]),
    ],
)
def test_the_layers_that_fast_forms_take_in_ordinary_use(name, first):
    model = net(name)
    for x in (pictures(model), pictures(model).to(memory_format=torch.channels_last)):
        for training in (True, False):
            with torch.set_grad_enabled(training):
                assert list(fast.passes(model.train(training).named_layers, x, model.logits)) == first
    with torch.inference_mode(), torch.device("cpu"):
        assert list(fast.passes(model.named_layers, x, model.logits)) == first


class Watching(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@needs_compiler
def test_every_layer_runs_its_plain_form_where_all_are_watched(monkeypatch):
    model = net("alexnet2012")
    x = pictures(model)
    assert fast.passes(model.named_layers, x, model.logits)
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    try:
        y = model(x)
        names = model.order[: model.order.index(model.logits) + 1]
        assert seen[:-1] == [getattr(model, name) for name in names]
    finally:
        handle.remove()
    close(y, model(x))
    for mode in (Watching(), FlopCounterMode(display=False)):
        with mode:
            assert not fast.passes(model.named_layers, x, model.logits)
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: x)
    assert not fast.passes(model.named_layers, x, model.logits)
    monkeypatch.undo()
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x)
    assert not fast.passes(model.named_layers, x, model.logits)
    monkeypatch.undo()
    assert fast.passes(model.named_layers, x, model.logits)


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "forward", lambda x: x.relu() / 2),
        lambda layer: layer.register_forward_hook(lambda layer, inputs, y: y / 2),
        lambda layer: layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0] / 2,)),
        lambda layer: setattr(layer, "__class__", Halving),
    ],
    ids=["forward", "hook", "pre-hook", "type"],
)
def test_a_changed_layer_does_what_it_was_changed_to(change):
    model, wanted = net("alexnet2012"), net("alexnet2012")
    wanted.relu2 = Halving()
    change(model.relu2)
    x = pictures(model)
    close(model(x), in_plain(wanted, x))
    with torch.no_grad():
        assert float((model(x) - net("alexnet2012")(x)).abs().max()) > 0.1


@needs_compiler
def test_a_hook_on_a_gradient_sees_it():
    model, seen = net("alexnet2012"), []
    model.pool2.register_full_backward_hook(lambda layer, into, out: seen.append((into[0].shape, out[0].shape)))
    model(pictures(model)).sum().backward()
    assert [len(shape) for shape in seen[0]] == [4, 4]


@every_variant
def test_outputs_of_every_layer_have_the_layout_of_the_pictures(name):
    for form in (torch.contiguous_format, torch.channels_last):
        model = net(name)
        x = pictures(model).contiguous(memory_format=form)
        names = [record.name for record in model.variant.layers]
        for half in (False, True):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = [*model.activations(x, names).items(), *((name, model(x, until=name)) for name in names)]
            for layer, y in found:
                assert y.is_contiguous(memory_format=form if y.dim() == 4 else torch.contiguous_format), layer
    assert model(x.contiguous(), until="pool1").view(2, -1).shape[0] == 2


# -- threads -------------------------------------------------------------------------------------------------------


def test_features_in_a_pool_of_threads_are_those_of_one():
    model = net("alexnet32")
    batches = [pictures(model, 1) * scale for scale in torch.linspace(0.1, 3, 96)]
    alone = [outputs(model, x, ["fc7", "conv2"]) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: outputs(model, x, ["fc7", "conv2"]), batches * 3))
    for got, wanted in zip(together, alone * 3, strict=True):
        assert all((got[name] == wanted[name]).all() for name in wanted)
    assert not any(layer._forward_hooks for layer in model.modules())


@needs_compiler
def test_plain_is_the_threads_own():
    model = net("alexnet32")
    x = pictures(model)
    with ThreadPoolExecutor(1) as pool, fast.plain():
        assert not fast.passes(model.named_layers, x, model.logits)
        assert pool.submit(fast.passes, model.named_layers, x, model.logits).result()


# -- precision and counters ----------------------------------------------------------------------------------------


@every_variant
def test_every_variant_in_half_precision_is_finite_and_near(name):
    model = net(name)
    x = 8 * pictures(model)
    got = copy.deepcopy(model).half()(x.half())
    assert got.dtype == torch.float16
    close(got.float(), model(x), 0.05)
    with torch.autocast("cpu", torch.float16):
        narrow = model(x)
    close(narrow.float(), model(x), 0.05)


@every_variant
def test_only_what_is_run_is_a_child_and_of_the_types_that_counters_know(name):
    model = net(name)
    run: list[nn.Module] = []
    for layer in model.modules():
        layer.register_forward_hook(lambda layer, *_: run.append(layer))
    model(pictures(model))
    assert set(run) == set(model.modules())
    for record in model.variant.layers:
        layer, kind = getattr(model, record.name), type(record).__name__
        assert kind != "Conv" or type(layer) is nn.Conv2d
        assert kind != "Dropout" or isinstance(layer, nn.Dropout)


def test_a_backbone_is_read_by_torch_fx_and_trained_through_shared_layers():
    model = net("alexnet2012")
    shared_relu(model)
    backbone, x = Backbone(model, "relu5"), pictures(model)
    close(backbone(x)["relu5"], model(x, until="relu5"))
    close(torch.fx.symbolic_trace(backbone)(x)["relu5"], model(x, until="relu5"))


def test_dropout_by_torch_draws_what_torchs_draws():
    x = torch.randn(4, 50)
    torch.manual_seed(0)
    theirs = nn.Dropout(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(layers.Dropout(0.3, inverted=True)(x), theirs)
    torch.manual_seed(0)
    torch.testing.assert_close(layers.Dropout(0.3, inverted=False)(x), theirs * 0.7)
