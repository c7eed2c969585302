"""A training step on an Nvidia GPU: pictures augmented in one pass, the update in one a parameter, and all that lies
between as one CUDA graph, which is launched at once instead of kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from alexnet.data.augment import Draws
from alexnet.data.preprocess import Preprocess
from alexnet.networks.fast.gpu import kernels

WARM = 3  # steps before the graph is captured: kernels are compiled and libraries choose their forms in them
Say = Callable[[str], object]


def augmented(
    pictures: Tensor, draws: Draws, preprocess: Preprocess, axes: Tensor | None, amount: float, dtype: torch.dtype
) -> Tensor | None:
    """Crop, mirror, minus mean, colour noise, ÷ scale: uint8 (n, C, S, S) -> `dtype` (n, C, size, size).

    None where the plain form must do it. Offsets are trusted: `augment.draw` keeps them inside.
    """
    (count, channels), size, found = pictures.shape[:2], preprocess.input, kernels()[0]
    if found is None or pictures.dtype != torch.uint8 or len(preprocess.scale) > 1 or channels > 4:
        return None
    shifts = preprocess.mean if axes is None else (draws.colour @ axes).contiguous()
    mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
    mean = mean.expand(channels, size, size).permute(1, 2, 0).contiguous()
    out = torch.empty(
        (count, channels, size, size), dtype=dtype, device=pictures.device, memory_format=torch.channels_last
    )
    top, left = draws.offsets.to(torch.int32).unbind(1)
    rows, each = count * size * size, 256
    found.augment[(-(-rows // each),)](
        pictures, top.contiguous(), left.contiguous(), draws.mirror.to(torch.uint8), mean, shifts, out, rows, size,
        1 + amount, preprocess.scale[0], *pictures.stride(), C=channels, NOISY=axes is not None, ROWS=each,
    )  # fmt: skip
    return out


class Update:
    """The 2012 update of torch's SGD in one pass over each parameter, at rates that lie on the device.

    Its state is the optimiser's own: a checkpoint does not know which of the two has made it.
    """

    def __init__(self, update: torch.optim.Optimizer, device: torch.device) -> None:
        self.update = update
        self.numbers = torch.zeros(len(update.param_groups), 2, device=device)  # rate, old rate / rate

    def set_rates(self, new: dict[str, float]) -> None:
        """Give each group its rate for the next step, which rescales the velocities as `optimizer.set_rates` does."""
        rows = []
        for group in self.update.param_groups:
            old, rate = group["lr"], new[group["name"]]
            ratio = 1.0
            if rate != old:
                group["lr"] = rate
                if not rate:
                    group["held"] = old
                else:
                    ratio = (old or group.pop("held", 0.0)) / rate
            rows.append((rate, ratio))
        rates = torch.tensor(rows)
        self.numbers.copy_(rates.pin_memory() if self.numbers.is_cuda else rates, non_blocking=True)

    def __call__(self) -> None:
        """Update every parameter that has a gradient, and forget the gradients."""
        found: Any = kernels()[0]
        for group, numbers in zip(self.update.param_groups, self.numbers, strict=True):
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.update.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"]
                gradient = parameter.grad
                if not parameter.stride() == velocity.stride() == gradient.stride():  # one order for all three
                    gradient = torch.empty_like(parameter).copy_(gradient)
                    if velocity.stride() != parameter.stride():
                        velocity = torch.empty_like(parameter).copy_(velocity)
                        state["momentum_buffer"] = velocity
                size, each = parameter.numel(), 1024
                found.update[(-(-size // each),)](
                    parameter.detach(), velocity, gradient, numbers, size, group["momentum"], group["weight_decay"],
                    SIZE=each,
                )  # fmt: skip
                parameter.grad = None


Work = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


class Captured:
    """Forward, loss, backward and update as one CUDA graph, from the fourth step on, for batches of one size.

    Work on a batch takes images, labels and masks and gives its figures as a tensor; what it needs besides must stay
    where it is.
    """

    def __init__(self, say: Say) -> None:
        self.say, self.steps, self.failed = say, 0, False
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
                self.failed = True
                why = str(error).splitlines()[0]
                self.say(f"steps are launched kernel by kernel, as they cannot be captured as a CUDA graph: {why}")
                return work(images, labels, masks)
        for place, new in zip(self.places, (images, labels, *masks.values()), strict=True):
            place.copy_(new)
        assert self.graph is not None
        self.graph.replay()
        return self.figures.clone()

    def _capture(self, work: Work, images: Tensor, labels: Tensor, masks: Mapping[str, Tensor]) -> None:
        self.places = [torch.empty_like(x).copy_(x) for x in (images, labels, *masks.values())]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        # Threads that load the next batches may pin memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.figures = work(self.places[0], self.places[1], dict(zip(masks, self.places[2:], strict=True)))
        self.graph = graph
