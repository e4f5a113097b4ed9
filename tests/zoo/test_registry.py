"""Models by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import alphanet_zoo as az
from alphanet_export.build import open_source
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.names import family_members, find_member, list_models, resolve_name
from alphanet_zoo.zoo.registry import PUBLISHED_CFG, create_model

NAMES = [f"alphanet_{name}" for name in ("a0", "a1", "a2", "a3", "a4", "a5", "a5_base", "a6")]
RECORD = {"images": 64, "batches": 2, "digest": "ab"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of alphanet_a0 with ten classes, calibrated, with a licence and labels of its own."""
    net = create_model("alphanet_a0", weights="random", num_classes=10)
    net.calibration = RECORD  # type: ignore[assignment]
    net.pretrained_cfg |= {"license": "mit", "label_names": tuple("0123456789")}
    path = tmp_path_factory.mktemp("weights") / "a0.safetensors"
    save_net(net, path)
    return path


def test_names_are_listed_once() -> None:
    assert list_models(family="imagenet") == NAMES and list_models() == az.list_models()
    assert list_models()[: len(NAMES)] == NAMES
    assert list_models("*a5*") == ["alphanet_a5", "alphanet_a5_base"] and list_models("b*") == []
    assert list_models(["*a6", "*a5*"], exclude_filters="*base") == ["alphanet_a5", "alphanet_a6"]
    assert list_models("*a5*", exclude_filters=["*_base", "*_a5"]) == list_models([]) == []
    assert [member.name for member in family_members("imagenet")] == NAMES


def test_an_alias_is_the_model_it_stands_for() -> None:
    assert resolve_name("alphanet_a5_small") == resolve_name("alphanet_a5") == "alphanet_a5"
    assert find_member("alphanet_a5_small") is find_member("alphanet_a5")
    assert create_model("alphanet_a5_small").arch == create_model("alphanet_a5").arch


@pytest.mark.parametrize(
    ("name", "hint"),
    [("alphanet_a7", "did you mean alphanet_a"), ("alphanet-a5_base", "did you mean alphanet_a5_base"),
     ("", "choose from alphanet"), ("resnet", "choose from alphanet")],
)  # fmt: skip
def test_an_unknown_name_says_the_nearest_if_one_is_near(name: str, hint: str) -> None:
    for ask in (resolve_name, find_member, create_model):
        with pytest.raises(UsageError, match=rf"unknown model '{name}'(; | \(){hint}"):
            ask(name)
    with pytest.raises(UsageError, match="unknown family 'cifar'"):
        list_models(family="cifar")


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_model_has_its_arch_and_the_keys_of_timm(name: str) -> None:
    net = create_model(name)
    member = find_member(name)
    assert net.arch == member.arch and net.num_classes == 1000 and net.training and net.calibration is None
    cfg, side = net.pretrained_cfg, member.arch.resolution
    expected = {
        "architecture": name, "input_size": (3, side, side), "fixed_input_size": False, "interpolation": "bicubic",
        "crop_pct": 0.875, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "num_classes": 1000,
        "pool_size": (side // 32,) * 2, "first_conv": "conv_stem", "classifier": "classifier", "label_names": None,
        "hf_hub_id": None, "license": None, "origin_url": None,
    }  # fmt: skip
    assert {key: cfg[key] for key in expected} == expected and "top1" not in cfg and net.top1 is None


def test_published_accuracy_belongs_to_weights_that_descend_from_the_published(tmp_path: Path) -> None:
    net = create_model("alphanet_a0", weights="random")
    net.calibration = "sliced"
    for origin, top1 in ((None, None), (PUBLISHED_CFG["imagenet"]["origin_url"], 77.87)):
        net.pretrained_cfg["origin_url"] = origin
        save_net(net, tmp_path / "a0.safetensors")
        loaded = create_model("alphanet_a0", weights=tmp_path / "a0.safetensors")
        assert loaded.top1 == top1
    net.top1 = 75.0  # As `alphanet publish --val` measures it.
    save_net(net, tmp_path / "a0.safetensors")
    assert create_model("alphanet_a0", weights=tmp_path / "a0.safetensors").top1 == 75.0
    assert open_source(tmp_path / "a0.safetensors").published_top1 == 77.87
    assert create_model("alphanet_a0", weights=tmp_path / "a0.safetensors", num_classes=5).top1 is None
    net.calibration = "training"
    save_net(net, tmp_path / "a0.safetensors")
    assert create_model("alphanet_a0", weights=tmp_path / "a0.safetensors").top1 is None


def test_random_weights_are_live_the_same_every_time_and_asked_for() -> None:
    one, two = (create_model("alphanet_a0", weights="random") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert bool((one.state_dict()["blocks.0.0.bn3.weight"] >= 0.5).all())
    assert one.calibration == "random" and not one.training
    assert bool((create_model("alphanet_a0").state_dict()["blocks.0.0.bn3.weight"] == 0).all())


@pytest.mark.parametrize("kind", ["file", "text", "folder"])
def test_local_weights_load_with_what_they_say_of_themselves(weights: Path, tmp_path: Path, kind: str) -> None:
    source: Any = weights if kind == "file" else str(weights)
    if kind == "folder":
        create_model("alphanet_a0", weights=weights).save_pretrained(tmp_path)
        source = str(tmp_path)
    net = create_model("alphanet_a0", weights=source, drop_rate=0.2, drop_path_rate=0.1)
    assert net.num_classes == 10 and net.calibration == RECORD and not net.training
    assert (net.drop_rate, net.drop_path_rate) == (0.2, 0.1)
    assert (net.pretrained_cfg["license"], net.top1) == ("mit", None)
    assert net.pretrained_cfg["label_names"] == tuple("0123456789")


def test_another_class_count_keeps_the_body_and_makes_a_new_head(weights: Path) -> None:
    old = create_model("alphanet_a0", weights=weights)
    new = create_model("alphanet_a0", weights=weights, num_classes=3)
    assert new.num_classes == new.pretrained_cfg["num_classes"] == 3 and new.calibration == RECORD
    assert new.pretrained_cfg["label_names"] is None
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = new.forward_features(images, resize=False)
        assert torch.equal(old.forward_features(images, resize=False), features)
        assert new.forward_head(features).shape == (1, 3)


def test_weights_of_another_model_are_refused_by_both_names(weights: Path) -> None:
    with pytest.raises(AlphaNetError, match=r"contains alphanet_a0 .*not alphanet_a4 ") as caught:
        create_model("alphanet_a4", weights=weights)
    assert caught.value.exit_code == 1


def test_weights_of_another_space_are_refused(tmp_path: Path) -> None:
    save_net(az.AlphaNet(az.ALPHANET_TINY.smallest, az.ALPHANET_TINY, 10), tmp_path / "tiny.safetensors")
    with pytest.raises(AlphaNetError, match="contains a network of the space alphanet_tiny .*not alphanet_a0"):
        create_model("alphanet_a0", weights=tmp_path / "tiny.safetensors")


def test_a_supernet_is_not_sliced_silently(tmp_path: Path) -> None:
    save_net(az.build_supernet(), tmp_path / "supernet.safetensors")
    with pytest.raises(AlphaNetError, match="is a supernet.*alphanet export --model alphanet_a4 --supernet"):
        create_model("alphanet_a4", weights=tmp_path / "supernet.safetensors")


def test_features_only_gives_the_pyramid(weights: Path) -> None:
    features = create_model("alphanet_a0", weights=weights, features_only=True, out_indices=(1, 3))
    assert isinstance(features, FeatureExtractor)
    with torch.no_grad():
        maps = features(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, 64 // reduction, 96 // reduction)
        for channels, reduction in zip(features.feature_info.channels(), features.feature_info.reduction(), strict=True)
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"num_classes": -1}, "num_classes is -1"),
        ({"in_chans": 0}, "in_chans is 0"),
        ({"in_chans": True}, "in_chans is True"),
        ({"global_pool": "max", "num_classes": 0}, "global_pool is 'max'"),
        ({"global_pool": ""}, "pass num_classes=0"),
        ({"in_chan": 1}, "create_model has no argument 'in_chan'; did you mean in_chans?"),
        ({"num_class": 5, "pretrained": True}, "no argument 'num_class'; did you mean num_classes?"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
        ({"drop_path_rate": -0.1, "weights": "someone/net"}, "drop_path_rate is -0.1"),
        ({"out_indices": (0,)}, "features_only=True"),
        ({"revision": "main"}, "requires weights on the Hub"),
        ({"revision": "main", "weights": "random"}, "requires weights on the Hub"),
        ({"revision": "main", "weights": "nowhere.safetensors"}, "is local"),
        ({"weights": "nowhere.safetensors"}, "no such file: nowhere.safetensors"),
        ({"weights": "models/nowhere.pth.tar"}, "no such file: models/nowhere.pth.tar"),
        ({"weights": Path("nowhere/net")}, "no such file: nowhere/net"),
        ({"weights": "nowhere"}, "neither a model's name nor an existing file or folder; alphanet models lists"),
        ({"weights": ""}, "is empty"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_else(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        create_model("alphanet_a0", **arguments)


def test_pretrained_weights_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    with pytest.raises(AlphaNetError, match="weights of alphanet_a5 are not published yet") as caught:
        create_model("alphanet_a5_small", pretrained=True)
    assert caught.value.exit_code == 1
