"""The origin of statistics and label names follows the tensors."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import alphanet_zoo as az
from alphanet_zoo.evaluate.calibration import check_statistics
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.synced_norm import synchronise
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY

NAMES = tuple("abcdefghij")


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def fresh(num_classes: int = 10) -> az.AlphaNet:
    return az.AlphaNet(TINY.smallest, TINY, num_classes)


def calibrated() -> az.AlphaNet:
    net = az.calibrate(fill_live(fresh()), [images()])
    net.pretrained_cfg["label_names"] = NAMES
    return net


def assert_quiet(net: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.eval()(images())


def test_training_is_seen_and_frozen_norms_are_not_taken_for_it() -> None:
    net = calibrated()
    record = net.calibration
    assert isinstance(record, dict)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    net(images())
    assert net.calibration == record
    net.train()(images())
    assert net.calibration == "training"
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    assert net.calibration is None


def test_a_state_dict_carries_them_and_keeps_its_keys() -> None:
    net, other = calibrated(), fresh()
    other.pretrained_cfg["label_names"] = NAMES[::-1]
    assert [key for key in net.state_dict() if not isinstance(net.state_dict()[key], Tensor)] == []
    assert set(net.state_dict()) == {name for name, _ in (*net.named_parameters(), *net.named_buffers())}
    other.load_state_dict(net.state_dict())
    assert other.calibration == net.calibration and other.pretrained_cfg["label_names"] == NAMES
    assert_quiet(other)
    other.train()(images())
    assert other.calibration == "training" and isinstance(net.calibration, dict)


def test_a_file_of_torch_save_carries_them() -> None:
    net, other, file = calibrated(), fresh(), io.BytesIO()
    torch.save({"epoch": 3, "model": net.state_dict()}, file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True)["model"])
    assert other.calibration == net.calibration and other.pretrained_cfg["label_names"] == NAMES


def test_a_wrapper_and_a_copy_carry_them() -> None:
    net = calibrated()
    wrapped, other = nn.Sequential(net), nn.Sequential(fresh())
    other.load_state_dict(wrapped.state_dict())
    for copied in (other[0], copy.deepcopy(net), copy.deepcopy(copy.deepcopy(net)), net.extract(net.arch)):
        assert copied.calibration == net.calibration and copied.pretrained_cfg["label_names"] == NAMES


def test_tensors_without_a_record_leave_none_behind() -> None:
    """A plain dict of tensors: strict loading works, and the record of what was there before is gone."""
    net = calibrated()
    net.load_state_dict(dict(fill_live(fresh()).state_dict()), strict=True)
    assert net.calibration is None and net.pretrained_cfg["label_names"] is None
    with pytest.warns(UserWarning, match=r"not set, so outputs are meaningless. Call calibrate\(net, batches\)"):
        net(images())
    net.load_state_dict({name: tensor.clone() for name, tensor in calibrated().state_dict().items()})
    assert net.calibration == "training"
    assert_quiet(net)


def test_a_part_of_the_tensors_changes_only_its_own_record() -> None:
    net = calibrated()
    record = net.calibration
    net.load_state_dict({f"classifier.{k}": v for k, v in fresh().classifier.state_dict().items()}, strict=False)
    assert net.calibration == record and net.pretrained_cfg["label_names"] is None
    net = calibrated()
    body = {name: t for name, t in fill_live(fresh()).state_dict().items() if not name.startswith("classifier")}
    net.load_state_dict(body, strict=False)
    assert net.calibration is None and net.pretrained_cfg["label_names"] == NAMES


def test_sliced_statistics_are_not_taken_for_training_after_a_plain_load() -> None:
    net = az.AlphaNet(TINY.largest, TINY, 10).train()
    net(torch.randn(4, 3, 16, 16))
    shallow = az.ArchSpec.from_dict({**TINY.largest.to_dict(), "depth": [1, 1, 1]})
    sliced = net.extract(shallow)
    assert net.calibration == "training" and sliced.calibration == "sliced"
    other = az.AlphaNet(shallow, TINY, 10)
    other.load_state_dict(sliced.state_dict())
    assert other.calibration == "sliced"
    other.load_state_dict(dict(sliced.state_dict()))
    assert other.calibration is None


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_averaged_model_has_the_statistics_of_training(use_buffers: bool) -> None:
    net = fresh().train()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    assert average.module.calibration is None
    for _ in range(12):
        net(images())
        average.update_parameters(net)
    assert average.module.calibration == "training"
    check_statistics(average.module)
    assert_quiet(average.module)
    other = fresh()
    other.load_state_dict(average.module.state_dict())
    assert other.calibration == "training"


def test_an_average_of_a_calibrated_net_says_training_once_it_has_trained() -> None:
    net = calibrated()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    assert average.module.calibration == net.calibration
    for _ in range(4):
        net.train()(images())
        average.update_parameters(net)
    assert average.module.calibration == "training"


def test_a_supernet_tracks_nothing() -> None:
    supernet = az.build_supernet(TINY, 10).train()
    supernet(images())
    assert supernet.calibration is None
    supernet.calibration = "checkpoint"
    other = az.build_supernet(TINY, 10)
    other.load_state_dict(supernet.state_dict())
    assert other.calibration == "checkpoint"
    other.load_state_dict(dict(supernet.state_dict()))
    assert other.calibration is None


def test_a_net_on_the_meta_device_keeps_what_its_tensors_will_have() -> None:
    net = calibrated()
    with torch.device("meta"):
        other = az.AlphaNet.from_config(net.config())
    assert other.calibration == net.calibration
    other.load_state_dict(dict(net.state_dict()), assign=True)
    assert other.calibration == net.calibration and other.pretrained_cfg["label_names"] == NAMES
    other.train()(images())
    assert other.calibration == "training"


def test_a_pyramid_shares_them() -> None:
    net = calibrated()
    pyramid = FeatureExtractor(net)
    assert pyramid.trunk.calibration == net.calibration
    pyramid.train()(images())
    assert net.calibration == pyramid.trunk.calibration == "training"
    with pytest.warns(UserWarning, match="not set, so outputs are meaningless"):
        FeatureExtractor(fresh()).eval()(images())


def test_another_classifier_has_other_labels() -> None:
    net = calibrated()
    net.classifier = nn.Linear(net.head_hidden_size, 10)
    assert net.pretrained_cfg["label_names"] is None and isinstance(net.calibration, dict)


def converted(kind: str) -> az.AlphaNet:
    net = fill_live(fresh())
    if kind == "torch":
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        assert isinstance(converted, az.AlphaNet) and isinstance(converted.bn1, nn.SyncBatchNorm)
        return converted
    synchronise(net, lambda tensor: tensor, 1)
    return net


@pytest.mark.parametrize("kind", ["torch", "own"])
def test_calibration_sets_the_statistics_of_synchronised_norms(kind: str) -> None:
    net = converted(kind)
    expected = az.calibrate(fill_live(fresh()), [images(), images(3) * 2])
    az.calibrate(net, [images(), images(3) * 2])
    assert net.calibration == expected.calibration
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert type(net.extract(net.arch).bn1) is nn.BatchNorm2d


def test_calibration_refuses_what_it_cannot_set() -> None:
    net = fill_live(fresh())
    net.bn2 = nn.BatchNorm2d(net.num_features, track_running_stats=False)
    with pytest.raises(ValueError, match="bn2 keeps no running statistics"):
        az.calibrate(net, [images()])
    net = fill_live(fresh())
    net.conv_final = nn.Sequential(net.conv_final, Unused(net.num_features))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"conv_final.1.norm has averaged 0 of 1 batches"):
        az.calibrate(net, [images()])
    assert net.calibration is None and bool((net.bn1.running_mean == 0).all())


class Unused(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_calibration_that_breaks_off_leaves_no_statistics() -> None:
    net = calibrated()
    with pytest.raises(ValueError, match="tuple"):
        az.calibrate(net, [images(), (images(), 1)])  # type: ignore[list-item]
    assert net.calibration is None and bool((net.bn1.running_mean == 0).all())
