"""A training step on an Nvidia GPU: the update in one pass a parameter, and the whole as one CUDA graph, which is
launched at once instead of kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from alexnet.base.device import on, send
from alexnet.base.errors import first_line
from alexnet.base.progress import Say
from alexnet.networks.fast import gpu

WARM = 3  # steps before the graph is captured: kernels are compiled and libraries choose their forms in them


class FusedUpdate:
    """The 2012 update of torch's SGD in one pass over each parameter, at rates that lie on the device.

    Its state is the optimiser's own: a checkpoint does not know which of the two has made it. With `copy_weights` it
    writes those along in bfloat16, and their gradients are the copies'.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.numbers = torch.zeros(len(optimizer.param_groups), 2, device=device)  # rate, old rate / rate
        self.copies: dict[nn.Parameter, Tensor] = {}
        self.versions: list[int] = []  # of the parameters that have copies, as torch counts edits but the update's own

    def copy_weights(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Leaves by those names, with the parameters' values in bfloat16 for a step to compute from."""
        self.copies = {p: torch.empty_like(p, dtype=torch.bfloat16).requires_grad_() for p in weights.values()}
        self.versions = []
        return {name: self.copies[parameter] for name, parameter in weights.items()}

    def _renew(self) -> None:
        versions = [parameter._version for parameter in self.copies]
        if versions != self.versions:
            with torch.no_grad():
                for parameter, copy in self.copies.items():
                    copy.copy_(parameter)
            self.versions = versions

    def set_rates(self, new: dict[str, float]) -> None:
        """Give each group its rate for the next step, which rescales the velocities as `optimizer.set_rates` does.

        Copies of weights that somebody else has written since, a checkpoint's for one, are made anew.
        """
        self._renew()
        rows = []
        for group in self.optimizer.param_groups:
            old, rate = group["lr"], new[group["name"]]
            ratio = 1.0
            if rate != old:
                group["lr"] = rate
                if not rate:
                    group["held"] = old
                else:
                    ratio = (old or group.pop("held", 0.0)) / rate
            rows.append((rate, ratio))
        self.numbers.copy_(send(torch.tensor(rows), self.numbers.device))

    def __call__(self) -> None:
        """Update every parameter that has a gradient, and forget the gradients."""
        for group, numbers in zip(self.optimizer.param_groups, self.numbers, strict=True):
            for parameter in group["params"]:
                copy = self.copies.get(parameter)
                leaf = parameter if copy is None else copy
                if leaf.grad is None:
                    continue
                state = self.optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"]
                gradient = leaf.grad
                if not parameter.stride() == velocity.stride() == gradient.stride():  # one order for all three
                    gradient = torch.empty_like(parameter).copy_(gradient)
                    if velocity.stride() != parameter.stride():
                        velocity = torch.empty_like(parameter).copy_(velocity)
                        state["momentum_buffer"] = velocity
                size, each = parameter.numel(), 1024
                gpu.Kernel("update")[(-(-size // each),)](
                    parameter.detach(), velocity, gradient, leaf.detach(), numbers, size, group["momentum"],
                    group["weight_decay"], SIZE=each, COPIED=copy is not None,
                )  # fmt: skip
                leaf.grad = None

    def forget(self) -> None:
        """Forget the gradients."""
        for leaf in (*self.copies.values(), *(p for group in self.optimizer.param_groups for p in group["params"])):
            leaf.grad = None


Work = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


class Captured:
    """Forward, loss, backward and update as one CUDA graph, from the fourth step on, for batches of one size.

    Work on a batch takes images, labels and masks and gives its figures as a tensor; what it needs besides must stay
    where it is. `forget` drops all gradients.
    """

    def __init__(self, device: torch.device, forget: Callable[[], None], say: Say) -> None:
        self.device, self.forget, self.say = device, forget, say
        self.steps, self.failed = 0, False
        self.places: list[Tensor] = []  # of what differs from step to step
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, work: Work, images: Tensor, labels: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """The figures of one step, which is made."""
        if self.failed or self.steps < WARM:
            self.steps += 1
            return work(images, labels, masks)
        if self.graph is None:
            try:
                self._capture(work, images, labels, masks)
            except RuntimeError as error:
                self.failed, self.places = True, []
                self.forget()  # the gradients of a step that was never made: the next would add to them
                why = first_line(error)
                self.say(f"steps are launched kernel by kernel, as they cannot be captured as a CUDA graph: {why}")
                return work(images, labels, masks)
        for place, new in zip(self.places, (images, labels, *masks.values()), strict=True):
            place.copy_(new)
        assert self.graph is not None
        with on(self.device):
            self.graph.replay()
        return self.figures.clone()

    def _capture(self, work: Work, images: Tensor, labels: Tensor, masks: Mapping[str, Tensor]) -> None:
        self.places = [torch.empty_like(x).copy_(x) for x in (images, labels, *masks.values())]
        with on(self.device):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # the graph has memory of its own
            graph = torch.cuda.CUDAGraph()
            # A stream of its own: torch's would be on the GPU of the process' first graph. Threads that load the next
            # batches may pin memory meanwhile.
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                self.figures = work(self.places[0], self.places[1], dict(zip(masks, self.places[2:], strict=True)))
        self.graph = graph


def update_rule(optimizer: torch.optim.Optimizer, device: torch.device) -> FusedUpdate | None:
    """What updates the parameters in fewer passes than the optimiser itself; None where nothing does.

    SGD by another rule than that of 2012 does its own steps.
    """
    other = any(group[key] for group in optimizer.param_groups for key in ("nesterov", "dampening", "maximize"))
    return FusedUpdate(optimizer, device) if gpu.here(device) and not other else None


def whole_step(device: torch.device, rule: object, say: Say) -> Captured | None:
    """What launches a step of one process as a whole; None where nothing does.

    A rule whose rates are Python's numbers would go on at those with which it was captured.
    """
    if isinstance(rule, FusedUpdate) and gpu.here(device) and device.type == "cuda":
        return Captured(device, rule.forget, say)
    return None
