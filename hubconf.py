"""Entry points for ``torch.hub``: ``torch.hub.load(<checkout>, 'alphanet_a5', source='local', weights=PATH)``.

Each takes ``pretrained`` (default True) and the arguments of `alphanet_zoo.zoo.registry.create_model`: ``num_classes``,
``weights``, ``features_only``, ``out_indices``, ``drop_rate``, ``drop_path_rate``, ``cache_dir``, ``revision``.
"""

from collections.abc import Callable as _Callable
from typing import Any as _Any

dependencies = ["torch", "safetensors", "huggingface_hub", "numpy"]


def _entry_point(name: str, text: str) -> _Callable[..., _Any]:
    """The entry point of one model; ``text`` is the summary in its docstring."""

    def build(pretrained: bool = True, **arguments: _Any) -> _Any:
        from alphanet_zoo.zoo.registry import create_model

        return create_model(name, pretrained, **arguments)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""{text}

    Args:
        pretrained: Load the published weights. If they are not published, an error lists the alternatives.
        **arguments: See `alphanet_zoo.zoo.registry.create_model`: ``weights`` ('random', a path, or a Hub
            repository), ``num_classes``, ``features_only``, ``out_indices``, ``drop_rate``, ``drop_path_rate``,
            ``cache_dir``, ``revision``.

    Returns:
        An ``alphanet_zoo.AlphaNet``, or a feature extractor with ``features_only=True``.
    """
    return build


alphanet_a0 = _entry_point("alphanet_a0", "AlphaNet-A0: 203 M MACs, published ImageNet top-1 77.87 %.")
alphanet_a1 = _entry_point("alphanet_a1", "AlphaNet-A1: 279 M MACs, published ImageNet top-1 78.94 %.")
alphanet_a2 = _entry_point("alphanet_a2", "AlphaNet-A2: 317 M MACs, published ImageNet top-1 79.20 %.")
alphanet_a3 = _entry_point("alphanet_a3", "AlphaNet-A3: 357 M MACs, published ImageNet top-1 79.41 %.")
alphanet_a4 = _entry_point("alphanet_a4", "AlphaNet-A4: 444 M MACs, published ImageNet top-1 80.01 %.")
alphanet_a5 = _entry_point("alphanet_a5", "AlphaNet-A5: 491 M MACs, published ImageNet top-1 80.29 %.")
alphanet_a5_small = _entry_point("alphanet_a5_small", "Alias of alphanet_a5.")
alphanet_a5_base = _entry_point("alphanet_a5_base", "AlphaNet-A5-base: 595 M MACs, published ImageNet top-1 80.62 %.")
alphanet_a6 = _entry_point("alphanet_a6", "AlphaNet-A6: 709 M MACs, published ImageNet top-1 80.78 %.")

alphanet_c10_xs = _entry_point("alphanet_c10_xs", "CIFAR-10 classifier, with weights: 17 M MACs, test top-1 89.35 %.")
alphanet_c10_s = _entry_point("alphanet_c10_s", "CIFAR-10 classifier, with weights: 31 M MACs, test top-1 90.94 %.")
alphanet_c10_m = _entry_point("alphanet_c10_m", "CIFAR-10 classifier, with weights: 39 M MACs, test top-1 91.50 %.")
alphanet_c10_l = _entry_point("alphanet_c10_l", "CIFAR-10 classifier, with weights: 46 M MACs, test top-1 91.81 %.")
alphanet_c10_xl = _entry_point("alphanet_c10_xl", "CIFAR-10 classifier, with weights: 61 M MACs, test top-1 92.13 %.")
