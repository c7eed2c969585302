"""What a user would take instead: the 2012 net from stock layers, torchvision's alexnet, the tutorial's loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TowersNorm(nn.Module):
    """nn.LocalResponseNorm for each of two towers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(tower) for tower in x.chunk(2, 1)], 1)


class WithinMapNorm(nn.Module):
    """The 2012 net's second normalisation, by average pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 1e-3 * F.avg_pool2d(x * x, 5, 1, 2)).pow(-0.75)


def two_towers() -> nn.Module:
    """alexnet2012 from stock layers, 224 pixels, 1000 classes."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4), TowersNorm(), nn.MaxPool2d(3, 2), nn.ReLU(),
        nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), TowersNorm(), WithinMapNorm(), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 1000),
    )  # fmt: skip


def torchvision_alexnet() -> nn.Module:
    """The single tower of 2014 as torchvision has it."""
    import torchvision

    return torchvision.models.alexnet()


def stepper(
    model: nn.Module, device: str, batch_size: int, precision: torch.dtype, channels_last: bool, compile: str = ""
) -> Callable[[], None]:
    """One training step of a usual script on a ready batch: autocast, cross-entropy, SGD; `compile` is torch's mode."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=layout).train()
    called = torch.compile(model, mode=compile) if compile else model
    options = {"fused": True} if device == "cuda" else {}
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, **options)
    images = torch.randn(batch_size, 3, 224, 224, device=device).contiguous(memory_format=layout)
    labels = torch.randint(0, 1000, (batch_size,), device=device)

    def step() -> None:
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(called(images), labels)
        loss.backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)

    return step


def tutorial(root: Path, device: str, batch_size: int, workers: int, precision: torch.dtype = torch.float32):
    """The tutorial's epochs, endless: ImageFolder, PIL, DataLoader, torchvision's alexnet; gives a step's images."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normal]
    loader = DataLoader(
        datasets.ImageFolder(root, transforms.Compose(steps)), batch_size, shuffle=True, num_workers=workers,
        pin_memory=device == "cuda", drop_last=True,
    )  # fmt: skip
    model = torchvision_alexnet().to(device).train()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    while True:
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.autocast(device, precision, enabled=precision != torch.float32):
                loss = F.cross_entropy(model(images), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            yield len(images)
