import json

import pytest
from PIL import Image

from alphanet_zoo.cli.demo import choose, main
from alphanet_zoo.files import sha256_of
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY

LEFT = [
    "digits.json",
    "digits.onnx",
    "digits.verify.json",
    "front.json",
    "front.png",
    "report.html",
]


def test_the_chain_holds_and_an_untrained_net_is_under_the_floor(tmp_path, capsys):
    assert main(["-o", str(tmp_path), "--max-steps", "2", "--evaluations", "3"]) == 4
    captured = capsys.readouterr()
    assert "below its minimum of" in captured.err
    assert all((tmp_path / name).stat().st_size for name in LEFT)
    verified = json.loads((tmp_path / "digits.verify.json").read_text())
    assert verified["parity"]["max_relative_error"] < 1e-4
    assert verified["weights_sha256"] == sha256_of(tmp_path / "training" / "final" / "model.safetensors")
    with Image.open(tmp_path / "front.png") as image:
        assert image.format == "PNG"
    for shown in ("smallest", "chosen", "largest", "300 validation and 300 test images", "wall time"):
        assert shown in captured.out


@pytest.mark.slow
def test_the_demo_reaches_its_floors(tmp_path, capsys):
    assert main(["-o", str(tmp_path)]) == 0
    verified = json.loads((tmp_path / "digits.verify.json").read_text())
    assert verified["accuracy"]["top1"] >= 95 and verified["accuracy"]["images"] == 300
    assert all((tmp_path / name).stat().st_size for name in LEFT)


def test_the_best_within_the_budget_is_chosen_and_of_equals_the_cheapest():
    archs = [TINY.smallest, *(ArchSpec.from_dict(TINY.smallest.to_dict() | {"resolution": 16}),), TINY.largest]
    entries = [
        {"arch": arch.to_dict(), "macs": macs, "accuracy": accuracy}
        for arch, macs, accuracy in zip(archs, (1, 2, 3), (0.9, 0.9, 0.95), strict=True)
    ]
    assert choose(entries, 2) == TINY.smallest
    assert choose(entries, 3) == TINY.largest
    with pytest.raises(ValueError, match="pass at least"):
        choose(entries, 0.5)


@pytest.mark.parametrize(
    "argv", [["--max-flops", "0"], ["--evaluations", "-1"], ["--max-steps", "x"], ["--nonsense"], ["extra"]]
)
def test_a_wrong_command_line_is_exit_code_2(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
