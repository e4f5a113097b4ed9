"""The recipe for LiteRT, in the environment whose Python is $ALPHANET_LITERT_PYTHON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from alphanet_export.freeze import freeze
from alphanet_export.write import write_export
from tests.export.exported import tiny_net

PYTHON = os.environ.get("ALPHANET_LITERT_PYTHON")
SCRIPT = Path(__file__).parents[2] / "export" / "litert" / "convert.py"


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="ALPHANET_LITERT_PYTHON is not set to the Python of an environment with "
                    "litert-torch and ai-edge-litert")  # fmt: skip
def test_a_pt2_file_becomes_a_litert_file_with_the_same_logits(tmp_path: Path) -> None:
    write_export(freeze(tiny_net()), pt2=tmp_path / "net.pt2", verify=False)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(PYTHON), str(SCRIPT), str(tmp_path / "net.pt2"), str(tmp_path / "net.tflite")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "largest relative error" in ran.stdout
    assert (tmp_path / "net.tflite").read_bytes()[4:8] == b"TFL3"
    metadata = json.loads((tmp_path / "net.tflite.json").read_text())
    assert metadata["alphanet.num_classes"] == 10 and metadata["alphanet.preprocessing"]["input_size"] == 12
