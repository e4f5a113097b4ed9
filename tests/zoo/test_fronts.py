import json

import pytest

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import AlphaNetError, TargetError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.search.front import write_front
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.zoo.archs import find_arch
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.fronts import pick
from alphanet_zoo.zoo.open import open_net
from tests.export.exported import write_images

ENTRIES = [
    {"arch": arch.to_dict(), "macs": TINY.count_macs(arch, 10), "params": 1000 * number, "latency_ms": 2.0 * number,
     "score": 0.5 + 0.1 * number, "weights": f"subnet-{number:02d}.safetensors"}
    for number, arch in enumerate((TINY.smallest, TINY.largest), 1)
]  # fmt: skip


@pytest.fixture
def published(tmp_path):
    for entry in ENTRIES:
        net = fill_live(AlphaNet(find_arch_of(entry), TINY, 10)).eval()
        save_net(net, tmp_path / entry["weights"])
    write_front(tmp_path / "front.json", ENTRIES)
    return tmp_path


def find_arch_of(entry):
    return TINY.read_arch(entry["arch"])


def test_the_best_entry_within_all_budgets_is_picked():
    assert pick(ENTRIES, {"macs": 1e9}, "x") == 1 and pick(ENTRIES, {"macs": 1e9, "latency_ms": 3.0}, "x") == 0
    with pytest.raises(TargetError, match=r"1 ms or less; the cheapest costs 2 ms"):
        pick(ENTRIES, {"latency_ms": 1.0}, "x")
    with pytest.raises(UsageError, match="has no latency_ms"):
        pick([{"arch": {}, "macs": 1}], {"latency_ms": 1.0}, "x")


def test_create_model_picks_from_a_published_front(published):
    assert az.create_model(str(published), macs="1G").arch == TINY.largest
    assert az.create_model(str(published), macs=ENTRIES[0]["macs"]).arch == TINY.smallest
    features = az.create_model(str(published), macs="1G", features_only=True)
    assert features.feature_info
    with pytest.raises(TargetError, match="the cheapest costs"):
        az.create_model(str(published), macs="1K")
    with pytest.raises(UsageError, match="is a folder of alphanet search, not a model.*macs='300M'"):
        az.create_model(str(published))
    with pytest.raises(UsageError, match=r"contains a front .* such as .*subnet-01.safetensors"):
        open_net(str(published))
    for entry in ENTRIES:
        (published / entry["weights"]).unlink()
    with pytest.raises(UsageError, match="repeat the search with --nets"):
        open_net(str(published))
    with pytest.raises(UsageError, match="neither an existing folder nor a Hub repository"):
        az.create_model("missing", macs="1G")


def test_a_front_without_its_weights_is_refused(published, tmp_path):
    (published / ENTRIES[0]["weights"]).rename(published / ENTRIES[1]["weights"])
    with pytest.raises(AlphaNetError, match="not the subnet that the front describes"):
        az.create_model(str(published), macs="1G")
    for name in (None, "../subnet.safetensors"):
        write_front(published / "front.json", [{**entry, "weights": name} for entry in ENTRIES])
        with pytest.raises(UsageError, match="alphanet search --nets"):
            az.create_model(str(published), macs="1G")


def test_export_chooses_from_a_front(published, tmp_path, capsys):
    supernet, images = str(tmp_path / "supernet.safetensors"), tmp_path / "train"
    save_net(fill_live(build_supernet(TINY, 10)), supernet)
    write_images(images)
    argv = ["export", supernet, "--front", str(published / "front.json"), "--calib-data", str(images), "--format",
            "safetensors", "--skip-verify", "-o", str(tmp_path / "net.safetensors")]  # fmt: skip
    for budget, arch in ((["--latency-ms", "3"], TINY.smallest), (["--flops", "1G"], TINY.largest)):
        assert main([*argv, *budget]) == 0
        assert find_arch(tmp_path / "net.safetensors").arch == arch
    assert main([*argv, "--latency-ms", "1"]) == 5 and "the cheapest costs" in capsys.readouterr().err
    least = ENTRIES[0]["macs"]  # Budgets are exact.
    assert main([*argv, "--flops", str(least)]) == 0
    assert main([*argv, "--flops", f"{(least // 10000) / 100}M"]) == 5
    assert main(argv) == 2 and "requires a budget" in capsys.readouterr().err
    assert main([*argv, "--flops", "1G", "--family", "imagenet"]) == 2
    assert main(["export", supernet, "--latency-ms", "3"]) == 2 and "pass --front" in capsys.readouterr().err
    assert main([*argv, "--latency-ms", "3", "--threads", "2"]) == 2 and "--threads" in capsys.readouterr().err


def test_a_search_writes_the_networks_of_its_front(tmp_path, capsys):
    save_net(fill_live(build_supernet(TINY, 10)), tmp_path / "supernet.safetensors")
    write_images(tmp_path / "train")
    argv = ["search", "--supernet", str(tmp_path / "supernet.safetensors"), "--data", str(tmp_path),
            "--hold-out", "10", "--evaluations", "3", "--nets", "-o", str(tmp_path / "front")]  # fmt: skip
    assert main(argv) == 0
    assert f"--calib-data {tmp_path / 'train'} " in capsys.readouterr().out
    entries = json.loads((tmp_path / "front" / "front.json").read_text())["front"]
    net = az.create_model(str(tmp_path / "front"), macs=entries[0]["macs"])
    assert net.arch.to_dict() == entries[0]["arch"] and net.calibration["images"] > 0
    assert main([*argv[:-1], str(tmp_path / "front.json")]) == 2
