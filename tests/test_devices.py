"""What is asked of devices that no test has: Apple's GPUs, older ones of Nvidia's, several of them."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch

import alexnet as package
from alexnet.base import device, distributed
from alexnet.base.errors import AlexNetError
from alexnet.data.preprocess import Preprocess
from alexnet.inference import exporting
from alexnet.inference.inside.looking import WHAT, look
from alexnet.inference.moving.answering import answers
from alexnet.inference.moving.reading import Frame
from alexnet.inference.scoring import Member
from alexnet.networks import fast
from alexnet.networks.model import AlexNet
from alexnet.training import loop
from narrow_classifier import made, picture

pytestmark = pytest.mark.cpu


class WithoutFloat64(torch.Tensor):
    """A tensor as on Apple's GPUs, which have no float64: what is made of it is one too, but a copy on the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        made = super().__torch_function__(func, types, args, kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.numpy):
            return made.as_subclass(torch.Tensor) if isinstance(made, torch.Tensor) else made
        assert getattr(made, "dtype", None) != torch.float64, f"{func.__name__} makes float64"
        return made


@pytest.fixture
def without_float64(monkeypatch) -> None:
    real = AlexNet.forward
    monkeypatch.setattr(AlexNet, "forward", lambda *given, **more: real(*given, **more).as_subclass(WithoutFloat64))


def seen(what: str) -> object:
    return look(made("alexnet32"), picture(), [what], layers=["conv2"], pictures=[picture(1)])


def film() -> object:
    frames = [Frame(number, number / 10, picture(number)) for number in range(3)]
    return list(answers(made("alexnet32"), "film", frames))


COMMANDS = {f"look {what}": lambda what=what: seen(what) for what in WHAT} | {"a film": film}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_computed_in_float64_where_the_network_is(command, without_float64):
    with pytest.raises(AssertionError, match="double makes float64"):
        made("alexnet32").model(torch.zeros(1, 3, 28, 28)).double()
    assert COMMANDS[command]()


# -- which device -----------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")
TAKING = [
    name
    for name in package.__all__
    if name.islower() and "device" in inspect.signature(getattr(package, name)).parameters
]
GIVEN = {"data": "nowhere", "pictures": [], "images": [], "model": "nowhere", "models": ["nowhere"], "a": "nowhere",
         "b": "nowhere", "path": "nowhere", "index": "nowhere", "query": "nowhere", "picture": "nowhere"}  # fmt: skip


@pytest.mark.parametrize("name", TAKING)
def test_a_device_may_be_torchs_own_wherever_one_is_named(name, tmp_path):
    function = getattr(package, name)
    needed = [x for x in inspect.signature(function).parameters.values() if x.default is x.empty and x.name != "sets"]
    assert "torch.device" in inspect.signature(function).parameters["device"].annotation
    given = {x.name: GIVEN.get(x.name, tmp_path / "out") for x in needed}
    for one in ("cpu", CPU):
        with pytest.raises(AlexNetError, match="nowhere"):  # which is looked for once the device is known
            list(function(**given, device=one))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cuda:1", "--device cuda:1: torch finds no such device here"), ("cuda:x", "finds no such device here"),
        ("mps", "finds no such device here"), ("gpu", "'gpu' is none of auto, cpu, cuda, mps and cuda:N"),
        ("auto:1", "'auto:1' is none of"), ("cuda1", "'cuda1' is none of"), ("cpu:1", "of that kind there is cpu"),
    ],
)  # fmt: skip
def test_the_command_line_takes_a_gpu_by_its_number(refused, given, said):
    assert said in refused("predict", "nowhere", "nowhere", "--device", given)


def test_the_first_of_a_kind_may_have_its_number(refused):
    assert "MODEL nowhere does not exist" in refused("predict", "nowhere", "nowhere", "--device", "cpu:0")
    assert "openvino computes on the CPU" in refused(
        "predict", "no", "no", "--device", "cuda:0", "--engine", "openvino"
    )


def test_several_processes_take_no_gpu_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(AlexNetError, match="cuda:1 names one GPU, and each of several processes takes its own; say"):
        distributed._own(torch.device("cuda", 1), 0)


def test_realtime_of_a_network_on_a_gpu_is_one_sentence(monkeypatch):
    one = made("alexnet32")
    monkeypatch.setattr(type(one), "device", torch.device("cuda", 0))
    with pytest.raises(AlexNetError, match=r"realtime computes on the CPU, and this classifier is on cuda:0; give one"):
        package.realtime(one)


# -- what it computes in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("able", "wanted", "found"),
    [
        (False, "auto", (torch.float32, "this GPU has no bfloat16 units")),
        (False, "float32", (torch.float32, "as asked")),
        (False, "bfloat16", (torch.bfloat16, "no bfloat16 units, so it is slower than float32")),
        (False, "tf32", "precision tf32 was asked for, which Tesla T4 lacks and would compute as float32; use float32"),
        (True, "auto", (torch.bfloat16, "tensor cores")), (True, "float32", (torch.float32, "as asked")),
        (True, "bfloat16", (torch.bfloat16, "as asked")), (True, "tf32", (torch.float32, "as asked")),
    ],
)  # fmt: skip
def test_an_older_gpu_takes_no_arithmetic_that_it_lacks_without_a_word(able, wanted, found, monkeypatch):
    monkeypatch.setattr(device, "on", lambda chosen: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda chosen: "Tesla T4")
    if isinstance(found, str):
        with pytest.raises(AlexNetError, match=found):
            device.choose_precision(torch.device("cuda"), wanted)
        return
    precision, why = device.choose_precision(torch.device("cuda"), wanted)
    assert precision == found[0]
    assert why.endswith(found[1])


@pytest.mark.parametrize("before", [True, False])
def test_results_that_repeat_write_no_memory_twice(before, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda wanted, **more: asked.append(wanted))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", before)
    with device.repeatable(False):
        assert torch.utils.deterministic.fill_uninitialized_memory == before
    with device.repeatable(True):
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert asked == [True]
    assert torch.utils.deterministic.fill_uninitialized_memory == before


@pytest.mark.parametrize(
    ("compile", "kind", "fast_forms"), [(True, "cuda", False), (True, "cpu", True), (False, "cuda", True)]
)
def test_a_run_that_is_compiled_on_a_gpu_is_evaluated_without_passes_too(compile, kind, fast_forms, monkeypatch):
    run = SimpleNamespace(
        recipe=SimpleNamespace(compile=compile, batch_size=4), evaluated=(None, None), held_out=None,
        world=SimpleNamespace(device=torch.device(kind)),
    )  # fmt: skip
    monkeypatch.setattr(loop, "measure", lambda *given, **more: fast.switched_on())
    assert loop._measure(run, torch.float32, quiet=True) == fast_forms


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device, and does not answer there."""

    device = torch.device("meta")

    def to(self, where):
        assert where == torch.device("cpu")
        return self.as_subclass(torch.Tensor)

    cpu = partialmethod(to, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["network", "engine"])
def test_what_answers_need_not_be_where_the_pictures_are(kind):
    def asked(crops: torch.Tensor) -> torch.Tensor:
        assert type(crops) is torch.Tensor
        return torch.zeros(len(crops), 2)

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    engine = SimpleNamespace(logits=asked) if kind == "engine" else None
    how = Preprocess(2, 2, "RGB", (64.0,), torch.zeros(3, 1, 1))
    crops = torch.zeros(5, 3, 2, 2, dtype=torch.uint8).as_subclass(Elsewhere)
    found = Member(net, how, engine=engine).logits(crops)
    assert (found.device, found.shape) == (torch.device("meta"), (5, 2))


def test_a_network_on_a_gpu_is_exported_from_a_copy_on_the_cpu(monkeypatch, tmp_path):
    def written(one, *given):
        raise AlexNetError(f"exported on {one.device}")

    monkeypatch.setattr(exporting, "_written", written)
    monkeypatch.setattr(AlexNet, "cpu", lambda net: net.to_empty(device="cpu"))  # meta has nothing to copy
    one = replace(made("alexnet32"), model=copy.deepcopy(made("alexnet32").model).to("meta"))
    with pytest.raises(AlexNetError, match="exported on cpu"):
        package.export(one, tmp_path / "net", "onnx")
    assert one.device == torch.device("meta")
