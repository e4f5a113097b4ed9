"""The model card (``README.md``) of a saved network."""

from __future__ import annotations

from typing import Any

from alphanet_zoo.nn.family import Network
from alphanet_zoo.slim.choices import FAMILY as SLIMMABLE
from alphanet_zoo.space.family import Space
from alphanet_zoo.zoo.families import families

_DATASETS = {"imagenet": ("ImageNet-1k", "imagenet-1k"), "cifar10": ("CIFAR-10", "cifar10")}
"""Name and Hub identifier of the data that the accuracies of a family were measured on."""

_BODY = """
# {title}

{kind} of {classes} classes, made with AlphaNet Zoo ([paper]({project})). It has {params:.2f} M parameters, takes
{macs:.1f} M multiply-accumulates (MACs) per image, and computes at {size} x {size} pixels.

## Use

```python
import alphanet_zoo as az

net = az.{loader}("{repository}")
```
{timm}

## Origin

- Batch-norm statistics: {calibration}.
- Accuracy: {accuracy}.
- Licence of the weights: {license}.
"""
_TIMM = """
In timm, and in the same way in transformers:

```python
import alphanet_zoo.timm
import timm

net = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
```
"""
"""The part for networks that timm can build: all but supernets."""

_PROJECT = "https://arxiv.org/abs/2102.07954"


def model_card(net: Network, repository: str) -> str:
    """The card, with the front matter of the Hugging Face Hub.

    Args:
        net: The network.
        repository: The Hub repository, ``organisation/name``; or the name of a folder.
    """
    from huggingface_hub import EvalResult, ModelCardData

    cfg = net.pretrained_cfg
    title, dataset = cfg["architecture"], _dataset(cfg["architecture"])
    result = None
    if net.top1 is not None and dataset is not None:
        result = [EvalResult("image-classification", dataset[1], dataset[0], "accuracy", net.top1, "Top-1 (%)")]
    license, source = cfg.get("license"), f"{'hf-hub' if '/' in repository else 'local-dir'}:{repository}"
    slimmable = net.config()["model_type"] == SLIMMABLE
    own_tags = ["slimmable", "alphanet-zoo"] if slimmable else ["timm", "transformers", "alphanet"]
    front = ModelCardData(
        license=license or "unknown",
        tags=["image-classification", *own_tags],
        library_name="alphanet-zoo" if slimmable else "timm",
        pipeline_tag="image-classification",
        model_name=title if result else None,
        eval_results=result,
    )
    body = _BODY.format(
        title=title,
        kind="The supernet of image classifiers" if net.supernet else "An image classifier",
        macs=net.space.count_macs(net.arch, net.num_classes) / 1e6,
        params=sum(parameter.numel() for parameter in net.parameters()) / 1e6,
        loader="from_pretrained" if slimmable else "AlphaNet.from_pretrained",
        timm="" if net.supernet or slimmable else _TIMM.format(source=source),
        classes=net.num_classes,
        size=net.arch.resolution,
        project=_PROJECT,
        repository=repository,
        calibration=_calibration(net),
        accuracy="not measured" if not result else f"top-1 {net.top1:.2f} % on {result[0].dataset_name}",
        license=license or "not stated",
    )
    return f"---\n{front.to_yaml()}\n---\n{body}"


def _dataset(name: str) -> tuple[str, str] | None:
    """Name and Hub identifier of the data that a model's accuracy was measured on; None if the name is unknown."""
    family = next((key for key, members in families().items() if name in (m.name for m in members)), None)
    return None if family is None else _DATASETS.get(family, (family, family))


def dataset_of(space: Space[Any]) -> str | None:
    """Name of the data that the accuracies of the models of a search space were measured on; None if it is unknown."""
    models = (model.name for members in families().values() for model in members if model.space == space)
    found = next((dataset for dataset in map(_dataset, models) if dataset is not None), None)
    return None if found is None else found[0]


def _calibration(net: Network) -> str:
    """The origin of the batch-norm statistics, in words."""
    value = net.calibration
    if isinstance(value, dict):
        return f"averaged over {value['images']} training images"
    named = {
        "checkpoint": "those of the published checkpoint",
        "sliced": "a slice of a larger network's, which must be calibrated before use",
        "training": "tracked in training",
        "random": "random values, for measuring latency only",
    }
    return "not set" if value is None else named[value]
