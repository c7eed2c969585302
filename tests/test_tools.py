"""The networks in the hands of others' tools: every variant by every tool, in threads, in half precision."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from alexnet.backbone import Backbone
from alexnet.inference.features import outputs
from alexnet.networks import fast, layers
from alexnet.networks.model import AlexNet
from tooled import TRACED, close, every_variant, needs_compiler, net, only_torchs, pictures, shared_relu

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
    assert only_torchs(program)
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
    if tool == "torch.export" and name in TRACED:
        return  # in test_export.py, with its preprocessing around it
    if tool == "torch.export" and name == "cifar10_13" and torch.__version__ < "2.12":
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
