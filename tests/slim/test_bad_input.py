"""Networks and arguments that cannot be made slimmable: one line that names the module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import alphanet_zoo as az
from alphanet_zoo.errors import UsageError
from alphanet_zoo.slim.named import named_slimmable
from tests.slim.own import current_folder

SIZE = (3, 16, 16)


class Net(nn.Module):
    """A network whose forward pass can be replaced in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x


class Auxiliary(Net):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        out = super().forward(x)
        return (out, out) if self.training else out


def hooked() -> nn.Module:
    net = Net()
    net.body.register_forward_hook(lambda module, args, out: out)
    return net


def shared() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(2048, 4))
    net[2].weight = net[1].weight
    return net


def parametrized() -> nn.Module:
    net = Net()
    nn.utils.parametrizations.weight_norm(net.body)
    return net


def frozen() -> nn.Module:
    return Net().requires_grad_(False)


def data_dependent() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), DataDependent(), nn.Flatten(), nn.Linear(2048, 4))


def exported() -> nn.Module:
    return torch.export.export(Net(), (torch.zeros(2, *SIZE),)).module()


NETWORKS = {
    "hooks": (hooked, r"module body \(Conv2d\) has hooks"),
    "shared parameters": (shared, r"1\.weight and 2\.weight are the same parameter"),
    "parametrized": (parametrized, r"module body \(.*\) is parametrized"),
    "no gradients": (frozen, r"no parameter of the network \(Net\) requires gradients"),
    "data-dependent branch": (data_dependent, "module 1 reads the value of a tensor"),
    "input size": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 4)),
        r"fails on images of shape \(2, 3, 16, 16\)",
    ),
    "auxiliary outputs": (Auxiliary, r"returns tuple in training"),
    "a map": (lambda: nn.Conv2d(3, 8, 1), r"returns \(2, 8, 16, 16\) in evaluation"),
    "no parameters": (nn.Flatten, r"the network \(Flatten\) has no parameters"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 1)), r"module 0 \(LazyConv2d\) (has hooks|is not initialised)"),
    "wrapper": (lambda: nn.DataParallel(Net()), "is a wrapper; pass the network inside it"),
    "evaluation only": (exported, r"runs in evaluation only|has hooks"),
    "nothing to remove": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        r"nothing of the network \(Sequential\) can be removed",
    ),
    "no module": (lambda: 3, "net is a int"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_networks(name: str) -> None:
    build, message = NETWORKS[name]
    with pytest.raises(UsageError, match=message) as caught:
        az.slimmable(build(), SIZE)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


ARGUMENTS = {
    "input_size": ((3, 16), "input_size is"),
    "widths": ((1.0, 0.5), r"widths is \(1.0, 0.5\)"),
    "importance": ("l2", "importance is 'l2'; pass 'norm', 'l1', 'data' or None"),
    "divisor": (0, "divisor is 0"),
    "tie": ("layer", "tie is 'layer'"),
    "resolutions": ((32, 16), "resolutions is"),
    "keep": (["bodi"], "keep names 'bodi', which is not a layer of Net; did you mean body"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    value, message = ARGUMENTS[name]
    with pytest.raises(UsageError, match=message):
        az.slimmable(Net(), **{"input_size": SIZE, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("input_size", 16), ("widths", 0.5)])
def test_a_number_is_not_a_list(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}; pass"):
        az.slimmable(Net(), **{"input_size": SIZE, name: value})  # type: ignore[arg-type]


FUNCTIONS = """
from torch import nn

def fixed(num_classes):
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

def broken(num_classes):
    return nn.Conv2D(3, num_classes, 3)

def without_argument():
    return nn.Identity()
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad_functions:fixed", "returns 10 outputs for num_classes=5; use num_classes as the number of outputs"),
        ("bad_functions:broken", r"fails with num_classes=5: AttributeError: .* \(bad_functions.py, line 8\)"),
        ("bad_functions:without_argument", "fails with num_classes=5: TypeError: .*num_classes'$"),
        ("no_such_module:build", "needs no_such_module.py, which is neither in the current folder nor installed"),
    ],
)
def test_functions_of_the_user(tmp_path: Path, name: str, message: str) -> None:
    with current_folder(tmp_path, "bad_functions", FUNCTIONS), pytest.raises(UsageError, match=message) as caught:
        named_slimmable(name, 5, SIZE)
    assert "\n" not in str(caught.value)


def test_the_report_states_why_no_channel_can_be_removed() -> None:
    assert "too few channels to remove any in multiples of divisor=64" in str(
        az.slimmable(Net(), SIZE, divisor=64).report
    )
    assert "widths has one value, 0.5" in str(az.slimmable(Net(), SIZE, (0.5,)).report)


def test_keep_is_a_list() -> None:
    with pytest.raises(UsageError, match=r"keep is 'body'; pass a list of names, such as \['body'\]"):
        az.slimmable(Net(), SIZE, keep="body")


def test_a_square_input_is_required() -> None:
    with pytest.raises(UsageError, match="pass a square size"):
        az.slimmable(Net(), (3, 16, 32))


def test_a_reason_is_given_for_what_keeps_its_channels() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(y.transpose(1, 2).flatten(2))

    class Mixed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention()

        def features(self, x: Tensor) -> Tensor:
            return self.attention(self.body(self.stem(x)).flatten(2).transpose(1, 2)).mean(1)

    supernet = az.slimmable(Mixed(), SIZE, tie=None)
    fixed = {line.layer: line.reason for line in supernet.report.fixed}
    assert list(fixed) == ["attention.qkv"] and "attention" in fixed["attention.qkv"]
    assert "attention.qkv: 48 of 48 channels are fixed: operator" in str(supernet.report)
