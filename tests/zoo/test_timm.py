"""The models in timm and transformers: the real packages, against a Hub on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.optim
import torch
from PIL import Image

import alphanet_zoo.timm
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.zoo.names import list_models
from tests.hub_server import HubClient, HubServer
from tests.zoo.saved import live_net

ROOT = Path(__file__).parents[2]
LABELS = tuple("abcdefghij")


def picture() -> Image.Image:
    """A picture that is not square, and has structure at all scales."""
    y, x = np.mgrid[:50, :70]
    channels = [np.sin(x / 7) * np.cos(y / 5), np.sin(x * y / 90), np.cos(x / 3 + y / 11)]
    return Image.fromarray((127.5 * (1 + np.stack(channels, -1))).astype(np.uint8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `save_pretrained`, with class names, and a picture beside it."""
    folder = tmp_path_factory.mktemp("timm")
    net = calibrate(live_net(), [torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))])
    net.pretrained_cfg["label_names"] = LABELS
    net.save_pretrained(folder / "my_net")
    picture().save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def server(saved: Path) -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.publish("someone/my_net", saved / "my_net")
        yield hub


@pytest.fixture(scope="module")
def client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    with HubClient(server, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_IMPLICIT_TOKEN="1") as process:
        yield process


FIVE = """
import alphanet_zoo.timm, timm, torch, transformers
from PIL import Image
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
path, image = folder + "/my_net", Image.open(folder + "/photo.png")
local = timm.create_model("local-dir:" + path, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(local), is_training=False)
pixels = transform(image)[None]
hub = timm.create_model("hf-hub:" + repo, pretrained=True).eval()
wrapper = transformers.TimmWrapperForImageClassification.from_pretrained(path).eval()
auto = transformers.AutoModelForImageClassification.from_pretrained(repo).eval()
processor = transformers.AutoImageProcessor.from_pretrained(repo)
answers = transformers.pipeline("image-classification", model=path, device="cpu")(
    image, top_k=10, function_to_apply="none")
with torch.no_grad():
    logits = [local(pixels), hub(pixels), wrapper(pixels).logits, auto(processor(image)["pixel_values"]).logits]
scores = {answer["label"]: answer["score"] for answer in answers}
names = [wrapper.config.id2label[i] for i in range(10)]
result = [[row[0].tolist() for row in logits] + [[scores[name] for name in names]], names, timm.__version__,
          transformers.__version__, local.calibration, local.calibration == hub.calibration]
"""


def test_five_entry_points_compute_the_same_logits(client: HubClient, saved: Path) -> None:
    answer = client(FIVE, folder=str(saved), repo="someone/my_net")
    assert "value" in answer, answer
    logits, names, *versions, calibration, same = answer["value"]
    print("timm {}, transformers {}".format(*versions))
    net = AlphaNet.from_pretrained(saved / "my_net")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    with torch.no_grad():
        expected = net(transform(picture())[None])[0]
    assert len(logits) == 5 and names == list(LABELS) and calibration == net.calibration and same
    assert expected.std() > 0.01
    for found in logits:
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-6)


DAMAGED = """
import alphanet_zoo.timm, timm
timm.create_model("hf-hub:" + repo, pretrained=True, cache_dir=cache)
"""


def test_weights_of_the_hub_are_checked(server: HubServer, client: HubClient, saved: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (saved / "my_net").iterdir()}
    weights = files["model.safetensors"]
    server.publish("someone/damaged", files | {"model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])})
    answer = client(DAMAGED, repo="someone/damaged", cache=str(tmp_path))
    assert (answer["error"], answer["code"]) == ("AlphaNetError", 1) and "SHA-256" in answer["message"]


PINNED = """
import sys
sys.modules.pop("alphanet_zoo.timm", None)
import alphanet_zoo, timm
from alphanet_zoo.zoo.pins import PINS, HubPin
PINS["alphanet_a0"] = HubPin("lab/alphanet_a0", commit, digest)
for registry in (timm.models._registry._model_entrypoints,):
    for name in alphanet_zoo.list_models():
        registry.pop(name, None)
import alphanet_zoo.timm
net = timm.create_model("alphanet_a0", pretrained=True, num_classes=5, in_chans=1, cache_dir=cache)
result = [timm.list_models("alphanet_a*", pretrained=True), alphanet_zoo.list_models("alphanet_a*", pretrained=True),
          net.calibration, net.num_classes, net.training, list(net.conv_stem.weight.shape)]
"""


def test_pinned_weights_are_listed_and_checked(
    server: HubServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from alphanet_zoo.files import sha256_of
    from alphanet_zoo.zoo.registry import create_model

    net = create_model("alphanet_a0", weights="random")
    net.calibration = {"images": 1, "batches": 1, "digest": "00"}
    net.save_pretrained(tmp_path / "a0")
    commit = server.publish("lab/alphanet_a0", tmp_path / "a0")
    names = {"commit": commit, "cache": str(tmp_path / "cache")}
    digest = sha256_of(tmp_path / "a0" / "model.safetensors")
    with HubClient(server, tmp_path_factory.mktemp("home")) as client:
        good, bad = (client(PINNED, digest=text, **names) for text in (digest, "f" * 64))
    listed = [["alphanet_a0"], ["alphanet_a0"]]
    assert good["value"] == [*listed, net.calibration, 5, True, [16, 1, 3, 3]]
    assert bad["code"] == 1 and "that of the pin is " + "f" * 64 in bad["message"]


@pytest.mark.parametrize(
    "first", ["alphanet_zoo.timm, timm", pytest.param("timm, alphanet_zoo.timm", marks=pytest.mark.slow)]
)
def test_either_import_may_come_first(first: str) -> None:
    script = (
        f"import {first}\n"
        "import alphanet_zoo as az\n"
        "assert timm is not az.timm and timm.__file__ != az.timm.__file__\n"
        "assert timm.list_models('alphanet_*') == sorted(az.list_models())\n"
        "assert timm.create_model('alphanet_a0', num_classes=10).num_classes == 10\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_models_are_listed_and_created_with_timms_arguments() -> None:
    names = timm.list_models("alphanet_*")
    assert set(names) == set(list_models())
    assert timm.list_models("alphanet*", pretrained=True) == sorted(list_models(pretrained=True))
    assert "alphanet" in timm.list_models() and alphanet_zoo.timm.default_cfgs["alphanet_a4"]["crop_pct"] == 0.875
    net = timm.create_model(
        "alphanet_a4", num_classes=10, in_chans=1, drop_rate=0.2, drop_path_rate=0.1, dtype=torch.float64,
        pretrained_cfg_overlay={"crop_pct": 0.95},
    )  # fmt: skip
    assert (net.num_classes, net.in_chans, net.drop_rate, net.drop_path_rate) == (10, 1, 0.2, 0.1)
    assert net.conv_stem.weight.dtype == torch.float64 and net.training
    data = timm.data.resolve_model_data_config(net)
    assert data["input_size"] == (1, 256, 256) and data["crop_pct"] == 0.95 and len(data["mean"]) == 1


def tiny(**arguments: Any) -> Any:
    return timm.create_model("alphanet", arch=TINY.largest.to_dict(), space="alphanet_tiny", num_classes=4, **arguments)


def test_any_network_is_created_by_its_arch() -> None:
    net = tiny()
    assert (net.arch, net.space, net.num_classes) == (TINY.largest, TINY, 4)
    other = timm.create_model("alphanet", arch=TINY.largest, space=TINY.to_dict(), num_classes=0, global_pool="")
    assert other.eval() is other and other.global_pool == "" and other.num_classes == 0
    pyramid = tiny(features_only=True, out_indices=(-2, -1))
    assert isinstance(pyramid, FeatureExtractor) and pyramid.feature_info.reduction() == [2, 4]
    maps = pyramid(torch.randn(2, 3, 20, 28))
    assert [tuple(m.shape) for m in maps] == [(2, 24, 10, 14), (2, 32, 5, 7)]
    assert timm.data.resolve_model_data_config(pyramid)["input_size"] == (3, 16, 16)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("alphanet_a0", {"num_class": 5}, "no argument 'num_class'; did you mean num_classes"),
        ("alphanet_a0", {"out_indices": (1,)}, "features_only=True"),
        ("alphanet_a0", {"features_only": True, "feature_cls": "hook"}, "feature_cls is 'hook'"),
        ("alphanet_a0", {"arch": TINY.smallest}, "has an arch of its own"),
        ("alphanet", {}, "requires arch"),
        ("alphanet", {"arch": TINY.smallest, "space": "tiny"}, "unknown search space 'tiny'"),
        ("alphanet", {"arch": TINY.smallest, "space": TINY, "supernet": True}, "a supernet cannot be used"),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        timm.create_model(name, **arguments)


def test_weights_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    with pytest.raises(AlphaNetError, match="weights of alphanet_a4 are not published yet"):
        timm.create_model("alphanet_a4", pretrained=True)
    with pytest.raises(AlphaNetError, match="has no published weights"):
        timm.create_model("alphanet", arch=TINY.smallest, space=TINY, pretrained=True)


def test_a_saved_folder_adapts_to_other_classes_and_channels(saved: Path) -> None:
    source = AlphaNet.from_pretrained(saved / "my_net")
    net = timm.create_model(f"local-dir:{saved / 'my_net'}", pretrained=True, num_classes=3, in_chans=1).eval()
    assert net.pretrained_cfg["label_names"] is None and net.calibration == source.calibration
    torch.testing.assert_close(net.conv_stem.weight, source.conv_stem.weight.sum(1, keepdim=True))
    grey = torch.randn(2, 1, 12, 12)
    expected = source.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(net.forward_features(grey), expected, rtol=1e-4, atol=1e-4)
    assert timm.create_model(f"local-dir:{saved / 'my_net'}").num_classes == 10


def test_what_timm_saves_and_loads(saved: Path, tmp_path: Path) -> None:
    net = calibrate(fill_live(tiny()), [torch.randn(8, 3, 16, 16)])
    timm.models.save_for_hf(net, str(tmp_path / "timms"), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'timms'}", pretrained=True).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
    with pytest.raises(AlphaNetError, match="no valid weights_sha256"):
        AlphaNet.from_pretrained(tmp_path / "timms")
    state = {"state_dict": net.state_dict(), "num_classes": 4}
    torch.testing.assert_close(tiny(pretrained=True, pretrained_cfg_overlay=state).eval()(x), net(x))


def test_a_config_that_names_another_network_is_refused(saved: Path, tmp_path: Path) -> None:
    net = live_net()
    net.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["model_args"]["arch"] = TINY.largest.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(AlphaNetError, match="does not contain the network alphanet"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_timms_parameter_groups() -> None:
    net = tiny()
    groups = timm.models.group_parameters(net, net.group_matcher(), reverse=True)
    blocks = sum(len(stage) for stage in net.blocks)
    assert [groups[name] for name in ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "conv_head.weight")] == [
        0, 1, blocks
    ]  # fmt: skip
    assert groups["classifier.weight"] == max(groups.values()) == blocks + 1
    coarse = timm.models.group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    assert max(coarse.values()) == len(net.blocks) + 1
    optimizer = timm.optim.create_optimizer_v2(net, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == blocks + 2


def test_the_commands_in_the_documentation_run(client: HubClient, saved: Path) -> None:
    text = (ROOT / "docs" / "library.md").read_text("utf-8")
    section = text.split("## Use from timm and transformers\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    code = "import os\nos.chdir(folder)\n" + "\n".join(blocks) + "\nresult = answers[0]['label']"
    answer = client(code, folder=str(saved))
    assert answer.get("value") in LABELS, answer
