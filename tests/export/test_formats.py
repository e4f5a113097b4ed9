from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_export.formats import FORMATS, check_formats, format_of, parse_formats
from alphanet_export.placing import output_files
from alphanet_zoo.errors import MissingDependencyError, MissingProgramError, UsageError
from alphanet_zoo.zoo.open import open_net


def test_a_list_comes_in_one_order_without_repeats() -> None:
    assert parse_formats("pt2, ONNX,pt2") == ("onnx", "pt2")
    assert parse_formats(",".join(reversed(FORMATS))) == tuple(FORMATS)


@pytest.mark.parametrize(
    ("text", "told"),
    [("opnvino", "did you mean openvino?"), ("onnx,core-ml", "did you mean coreml?"), ("zzz", "choose from onnx,"),
     ("onnx,", "unknown format ''"), ("onnx,tflite", "export .pt2 and convert it"), ("engine", "trtexec")],
)  # fmt: skip
def test_unknown_format_names_the_nearest(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        parse_formats(text)


def test_an_ending_of_another_tool_names_the_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"net.tflite is not a folder and does not end in .onnx; export .pt2"):
        output_files(tmp_path / "net.tflite", "net", ["onnx"])
    with pytest.raises(UsageError, match=r"does not end in .onnx; for another format, use its ending \(.ort, .xml,"):
        output_files(tmp_path / "net.bin", "net", ["onnx"])


def test_files_of_a_format() -> None:
    openvino, aoti = FORMATS["openvino"], FORMATS["aoti"]
    assert openvino.path(Path("a/net.1")) == Path("a/net.1.xml")
    assert openvino.files(Path("a/net.1.xml")) == (Path("a/net.1.xml"), Path("a/net.1.bin"), Path("a/net.1.xml.json"))
    assert aoti.files(aoti.path(Path("net"))) == (Path("net.aoti.pt2"), Path("net.aoti.pt2.json"))


def test_option_that_a_format_cannot_honour_is_refused() -> None:
    with pytest.raises(UsageError, match="--format executorch does not support --dynamic-batch"):
        check_formats(["onnx", "executorch"], dynamic_batch=True)
    with pytest.raises(UsageError, match="--format coreml does not support --img-size"):
        check_formats(["coreml"], dynamic_batch=False, resizes=True)
    check_formats(["onnx", "pt2"], dynamic_batch=True, resizes=True)


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'alphanet-zoo\[openvino\]'") as caught:
        check_formats(["openvino"], dynamic_batch=False)
    assert caught.value.exit_code == 6
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingProgramError, match="no-such-compiler is not installed") as missing:
        check_formats(["aoti"], dynamic_batch=False)
    assert missing.value.exit_code == 6


def test_formats_and_runtimes_are_listed_without_torch() -> None:
    script = ("import sys, alphanet_export.formats, alphanet_export.runtimes.runtime\n"
              "print({'torch', 'openvino', 'onnxruntime'} & set(sys.modules))")  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_a_folder_with_an_exported_file_names_it(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"is a folder; pass the file in it: {exported}$"):
        format_of(tmp_path)
    with pytest.raises(UsageError, match=f"alphanet predict --file {exported}"):
        open_net(tmp_path)
