"""CUDA's autocast on a CPU: the operators that it computes in float32 and the CPU's autocast does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# As torch's documentation lists them under "CUDA Ops that autocast to float32".
_NAMES = """
__pow__ __rdiv__ __rpow__ __rtruediv__ acos asin binary_cross_entropy_with_logits cosh cosine_embedding_loss
cdist cosine_similarity cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm hinge_embedding_loss
kl_div l1_loss layer_norm log log10 log_softmax log1p log2 logsumexp margin_ranking_loss mse_loss
multilabel_margin_loss multi_margin_loss nll_loss norm normalize pdist poisson_nll_loss pow prod reciprocal
rsqrt sinh smooth_l1_loss soft_margin_loss softmax softmin softplus sum renorm tan triplet_margin_loss
"""
TO_FLOAT32 = frozenset(_NAMES.split())


class _CastsAsCuda(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in TO_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = [_wide(x) for x in args]
        return func(*args, **(kwargs or {}))


def _wide(x: object) -> object:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Within it torch.autocast("cpu") casts what torch.autocast("cuda") does, too."""
    with _CastsAsCuda():
        yield
