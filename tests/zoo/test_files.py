"""A net in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import load_net, read_config, save_net


def live_supernet() -> AlphaNet:
    return fill_live(build_supernet(ALPHANET_TINY, 10), seed=3)


def rewritten(source: Path, target: Path, **config: object) -> Path:
    """The same tensors under a config with other values."""
    text = json.dumps(read_config(source) | config)
    save_file(load_file(source), target, metadata={"alphanet": text})
    return target


@pytest.mark.parametrize(
    "calibration", [None, "checkpoint", "sliced", "training", {"images": 64, "batches": 2, "digest": "0a"}]
)
def test_save_and_load_keep_everything(tmp_path: Path, calibration: object) -> None:
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10))
    net.calibration = calibration  # type: ignore[assignment]
    net.pretrained_cfg["label_names"] = tuple("0123456789")
    digest = save_net(net, tmp_path / "made" / "net.safetensors")
    assert digest == sha256_of(tmp_path / "made" / "net.safetensors")
    loaded = load_net(tmp_path / "made" / "net.safetensors")
    assert loaded.config() == net.config() and loaded.pretrained_cfg == net.pretrained_cfg
    assert loaded.calibration == calibration and not loaded.training
    assert loaded.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_supernet_keeps_what_other_subnets_need(tmp_path: Path) -> None:
    save_net(live_supernet(), tmp_path / "net.safetensors")
    loaded = load_net(tmp_path / "net.safetensors")
    assert loaded.supernet and loaded.contains(ALPHANET_TINY.smallest)
    loaded.extract(ALPHANET_TINY.smallest)


def test_the_same_net_gives_the_same_bytes(tmp_path: Path) -> None:
    net = live_supernet()
    digests = {save_net(net, tmp_path / f"{i}.safetensors") for i in range(5)}
    digests.add(save_net(load_net(tmp_path / "0.safetensors"), tmp_path / "again.safetensors"))
    assert len(digests) == 1


def test_loading_draws_no_random_number_and_outlives_the_file(tmp_path: Path) -> None:
    save_net(live_supernet(), tmp_path / "net.safetensors")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    net = load_net(tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    (tmp_path / "net.safetensors").write_bytes(b"")
    assert torch.equal(net.conv_stem.weight, live_supernet().conv_stem.weight)


def test_the_config_reads_without_the_weights(tmp_path: Path) -> None:
    save_net(live_supernet(), tmp_path / "net.safetensors")
    config = read_config(tmp_path / "net.safetensors")
    assert config == json.loads(json.dumps(live_supernet().config()))


def test_another_float_type_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"torch.float16.*net\.float\(\)"):
        save_net(live_supernet().half(), tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "net.safetensors"
    save_net(live_supernet(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if keep == 0.5 else int(keep)])
    for read in (load_net, read_config):
        with pytest.raises(AlphaNetError, match="is not a readable safetensors file") as caught:
            read(path)
        assert caught.value.exit_code == 1 and str(path) in str(caught.value)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(AlphaNetError, match="alphanet convert"):
        load_net(tmp_path / "net.pth")


def test_a_file_without_config_says_what_is_missing(tmp_path: Path) -> None:
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(AlphaNetError, match="has no 'alphanet' entry in its header"):
        load_net(tmp_path / "net.safetensors")


@pytest.mark.parametrize(("text", "told"), [("{", "is not JSON"), ("[]", "is not a JSON object"), ("{}", "model_type")])
def test_a_broken_config_is_refused(tmp_path: Path, text: str, told: str) -> None:
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "net.safetensors", metadata={"alphanet": text})
    with pytest.raises(AlphaNetError, match=told):
        load_net(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"num_classes": 12}, r"wrong shape: classifier.weight \(10, 128\), expected \(12, 128\)"),
        ({"num_classes": "ten"}, "num_classes is 'ten'"),
        ({"supernet": False}, "unexpected: blocks"),
        ({"arch": ALPHANET_TINY.smallest.to_dict()}, "wrong shape: "),
        ({"arch": ALPHANET_TINY.largest.to_dict() | {"resolution": 13}}, "resolution is 13"),
        ({"arch": 7}, "an arch must be a mapping"),
        ({"space": {"name": "x"}}, "not a search space"),
        ({"calibration": "made up"}, "calibration is 'made up'"),
        ({"pretrained_cfg": None}, "does not describe a network"),
    ],
)
def test_a_config_that_does_not_fit_the_tensors_is_refused(
    tmp_path: Path, config: dict[str, object], told: str
) -> None:
    save_net(live_supernet(), tmp_path / "net.safetensors")
    with pytest.raises(AlphaNetError, match=told) as caught:
        load_net(rewritten(tmp_path / "net.safetensors", tmp_path / "other.safetensors", **config))
    assert caught.value.exit_code == 1


def test_a_missing_file_or_a_folder_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_net(tmp_path / "nowhere.safetensors")
    with pytest.raises(UsageError, match="contains neither model.safetensors"):
        load_net(tmp_path)


def test_half_the_bytes_hold_rounded_parameters_and_exact_statistics(tmp_path: Path) -> None:
    net = fill_live(AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10))
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_net(net, whole)
    assert save_net(net, half, half=True) == sha256_of(half)
    assert half.stat().st_size < 0.65 * whole.stat().st_size
    parameters, loaded, contents = dict(net.named_parameters()), load_net(half), load_file(half)
    assert loaded.config() == net.config()
    for name, tensor in net.state_dict().items():
        stored = contents[name]
        assert stored.dtype == (torch.float16 if name in parameters else tensor.dtype)
        assert torch.equal(loaded.state_dict()[name], stored.to(tensor.dtype))
        torch.testing.assert_close(stored.to(tensor.dtype), tensor, rtol=1e-3, atol=1e-6)
    again = tmp_path / "again.safetensors"
    save_net(loaded, again, half=True)
    assert again.read_bytes() == half.read_bytes()


def test_halves_that_nobody_announced_and_values_out_of_range_are_refused(tmp_path: Path) -> None:
    net, path = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)), tmp_path / "half.safetensors"
    save_net(net, path, half=True)
    wrong_type = "wrong type: .* torch.float16, expected torch.float32"
    for storage, complaint in ((None, wrong_type), ("int8", "stores .*'int8'")):
        with pytest.raises(AlphaNetError, match=complaint):
            load_net(rewritten(path, tmp_path / "other.safetensors", storage=storage))
    with torch.no_grad():
        net.conv_stem.weight[0, 0, 0, 0] = 7e4
    with pytest.raises(ValueError, match="conv_stem.weight has values outside the range of float16"):
        save_net(net, tmp_path / "new.safetensors", half=True)
    assert not (tmp_path / "new.safetensors").exists()
