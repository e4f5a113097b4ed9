"""``alphanet predict`` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import alphanet_zoo as az
from alphanet_export.build import Source
from alphanet_export.freeze import freeze
from alphanet_export.write import write_export
from alphanet_zoo.cli.main import main
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo import families
from alphanet_zoo.zoo.files import load_net, save_net
from alphanet_zoo.zoo.shipped import write_family
from tests.predict.pictures import LABELS, labelled_net, write_pictures


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its ONNX file, and pictures in a folder."""
    root, net = tmp_path_factory.mktemp("predict"), labelled_net()
    write_pictures(root / "pictures")
    save_net(net, root / "net.safetensors")
    write_export(freeze(net), Source(net, "tiny"), verify=False, onnx=root / "tiny.onnx")
    return root


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


Output = pytest.CaptureFixture[str]
NET, FILE = ["--model", "net.safetensors"], ["--file", "tiny.onnx"]


def printed(capsys: Output, *argv: str, code: int = 0) -> str:
    assert main(["predict", *argv]) == code
    out, err = capsys.readouterr()
    assert code or err == ""
    return out


def refusal(capsys: Output, *argv: str, code: int = 2) -> str:
    assert main(["predict", *argv]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("alphanet predict: error: ")
    return err


def test_the_results_are_those_of_the_classifier(root: Path, capsys: Output) -> None:
    results = az.Classifier(root / "net.safetensors").predict(sorted(Path("pictures").iterdir()), topk=2)
    expected = "".join(f"{result.path}: {result}\n" for result in results)
    assert printed(capsys, "pictures", *NET, "--topk", "2") == expected
    assert printed(capsys, "pictures", *FILE, "--topk", "2", "--batch-size", "3", "--threads", "1") == expected
    lines = printed(capsys, "pictures/", *NET, "--topk", "2", "--format", "jsonl").splitlines()
    for line, result in zip(lines, results, strict=True):
        top = [{"label": each.label, "index": each.index, "probability": each.probability} for each in result.top]
        assert json.loads(line) == {"path": str(result.path), "top": top}
    rows = list(csv.reader(io.StringIO(printed(capsys, "pictures", *NET, "--topk", "2", "--format", "csv"))))
    assert rows[0] == ["path", "rank", "label", "index", "probability"] and len(rows) == 1 + 2 * len(results)
    assert [row[0] for row in rows[1::2]] == [str(result.path) for result in results]
    assert [(row[2], float(row[4])) for row in rows[1::2]] == [(each.label, each.probability) for each in results]
    assert [row[1] for row in rows[1:5]] == ["1", "2", "1", "2"]


def test_the_order_is_that_of_the_command_line(capsys: Output) -> None:
    out = printed(capsys, "pictures/3-grey.jpg", "pictures/[01]*.jpg", "pictures/2-on-its-side.jpg", *FILE)
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        f"pictures/{name}.jpg" for name in ("3-grey", "0-wide", "1-tall", "2-on-its-side")
    ]


def test_unreadable_files_are_reported_and_skipped(root: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "b.png").write_bytes(b"not an image")
    for name in "ac":
        (tmp_path / f"{name}.jpg").write_bytes((root / "pictures" / "0-wide.jpg").read_bytes())
    output = tmp_path / "out.jsonl"
    assert main(["predict", str(tmp_path), *FILE, "-o", str(output)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 2
    first, last = err.splitlines()
    assert first.startswith(f"alphanet predict: cannot read the image {tmp_path / 'b.png'}: ")
    assert last == "alphanet predict: error: 1 of 3 images could not be read"
    assert [Path(json.loads(line)["path"]).name for line in output.read_text().splitlines()] == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize(("ending", "start"), [("csv", "path,rank,"), ("jsonl", '{"path": '), ("txt", "pictures/0-")])
def test_a_file_has_the_form_of_its_ending(ending: str, start: str, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / f"out.{ending}"
    assert printed(capsys, "pictures/0-wide.jpg", *FILE, "-o", str(path)) == ""
    assert path.read_text().startswith(start) and list(tmp_path.iterdir()) == [path]
    printed(capsys, "pictures/0-wide.jpg", *FILE, "-o", str(path), "--format", "text")
    assert path.read_text().startswith("pictures/0-wide.jpg: ")


def test_names_with_unusual_characters(root: Path, tmp_path: Path, capsys: Output) -> None:
    content = (root / "pictures" / "0-wide.jpg").read_bytes()
    names = [b"a,b.jpg", b"line\nbreak.jpg", b"not-utf8-\xff.jpg"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(content)
    text = printed(capsys, str(tmp_path), *FILE)
    assert len(text.splitlines()) == 3 and r"line\nbreak.jpg" in text and r"not-utf8-\udcff.jpg" in text
    output = tmp_path / "out.jsonl"
    printed(capsys, str(tmp_path), *FILE, "-o", str(output))
    found = [os.fsencode(json.loads(line)["path"]) for line in output.read_text("utf-8").splitlines()]
    assert [os.path.basename(path) for path in found] == names
    rows = list(csv.reader(io.StringIO(printed(capsys, str(tmp_path), *FILE, "--format", "csv", "--topk", "1"))))
    assert [Path(row[0]).name for row in rows[1:3]] == ["a,b.jpg", "line\nbreak.jpg"]


def test_a_supernet_with_an_arch(root: Path, tmp_path: Path, capsys: Output) -> None:
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = "checkpoint"
    save_net(supernet, tmp_path / "supernet.safetensors")
    (tmp_path / "arch.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict()))
    words = ["pictures", "--model", str(tmp_path / "supernet.safetensors")]
    assert "is a supernet, which contains many networks; pass the arch" in refusal(capsys, *words)
    out = printed(capsys, *words, "--arch", str(tmp_path / "arch.json"), "--topk", "1")
    classifier = az.Classifier(tmp_path / "supernet.safetensors", arch=ALPHANET_TINY.smallest)
    assert out.splitlines()[0] == f"pictures/0-wide.jpg: {classifier.predict('pictures/0-wide.jpg', topk=1)[0]}"
    assert "the arch has 7 stages; the space alphanet_tiny has 3" in refusal(capsys, *words, "--arch", "alphanet_a0")


def test_the_default_model_is_the_middle_one_of_the_included_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(families, "FOLDER", tmp_path / "none")
    assert "Pass --model with a name" in refusal(capsys, "pictures")
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.pretrained_cfg["label_names"] = tuple("abcdefghij")
    save_net(supernet, tmp_path / "half.safetensors", half=True)
    rounded = load_net(tmp_path / "half.safetensors")
    archs = {"tiny_s": ALPHANET_TINY.smallest, "tiny_l": ALPHANET_TINY.largest}
    members = {name: rounded.extract(arch).eval() for name, arch in archs.items()}
    for net in members.values():
        net.calibration = "random"
    write_family(tmp_path / "shipped", "tiny", rounded, members, dict.fromkeys(members, 50.0), license="x",
                 description="random weights")  # fmt: skip
    monkeypatch.setattr(families, "FOLDER", tmp_path / "shipped")
    assert main(["predict", "pictures/0-wide.jpg"]) == 0
    out, err = capsys.readouterr()
    (expected,) = az.Classifier("tiny_l").predict("pictures/0-wide.jpg")
    assert out == f"pictures/0-wide.jpg: {expected}\n"
    assert err == (
        "alphanet predict: model tiny_l (classes: a, b, c, d, e, f, g, h, i, j); pass --model or --file for another\n"
        "alphanet predict: note: the weights are random, so the results are meaningless\n"
    )


def test_labels_of_ones_own_and_several_labels(root: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"name {index}\n" for index in range(10)))
    labels = ["--labels", str(tmp_path / "labels.txt")]
    classifier = az.Classifier(root / "net.safetensors", multi_label=True, labels=[f"name {i}" for i in range(10)])
    (expected,) = classifier.predict("pictures/0-wide.jpg")
    assert printed(capsys, "pictures/0-wide.jpg", *FILE, *labels, "--multi-label") == f"{expected.path}: {expected}\n"
    (tmp_path / "labels.txt").write_bytes(b"\x89PNG")
    assert "labels.txt is not a text file" in refusal(capsys, "pictures/0-wide.jpg", *FILE, *labels)
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    for model in (FILE, NET, []):
        assert "2 labels for 10 classes" in refusal(capsys, "pictures/0-wide.jpg", *model, *labels)


def test_bad_usage(root: Path, tmp_path: Path, capsys: Output) -> None:
    cases = [
        ([*FILE], "the following arguments are required: IMAGE"),
        (["none.jpg", *FILE], "'none.jpg' does not exist and matches no file"),
        (["none/*.jpg", *FILE], "'none/*.jpg' does not exist and matches no file"),
        (["pictures", "--file", "none.onnx"], "'none.onnx' does not exist"),
        (["pictures", "--file", "pictures"], "is a folder"),
        (["pictures", "--model", "tiny.onnx"], "--model tiny.onnx is an exported file; pass it with --file"),
        (["pictures", "--model", "alphanet_a9"], "alphanet_a9"),
        (["pictures", *NET, *FILE], "not allowed with argument"),
        (["pictures", *FILE, "--arch", "a.json"], "--arch requires --model"),
        (["pictures", *NET, "--preprocessing", "net.safetensors"], "--preprocessing requires --file"),
        (["pictures", *FILE, "--preprocessing", "net.safetensors"], "--preprocessing net.safetensors"),
        (["pictures", *FILE, "--topk", "0"], "'0' is not a positive integer"),
        (["pictures", *FILE, "--format", "xml"], "invalid choice: 'xml'"),
        (["pictures", *FILE, "-o", "pictures"], "-o: pictures is a folder"),
        (["pictures", *FILE, "-o", "res.json"], "unknown ending .json; use .txt, .jsonl or .csv, or pass --format"),
        (
            ["pictures", *FILE, "--format", "text", "-o", "pictures/0-wide.jpg"],
            "-o pictures/0-wide.jpg is one of the images",
        ),
        ([str(tmp_path), *FILE], "contains no images"),
    ]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for argv, message in cases:
        assert message in refusal(capsys, *argv), argv
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_bad_usage_loads_no_torch(root: Path) -> None:
    script = (
        "import sys\n"
        "from alphanet_zoo.cli.main import main\n"
        "for argv in (['none.jpg'], ['pictures', '--model', 'tiny.onnx'], ['pictures', '--file', 'pictures']):\n"
        "    assert main(['predict', *argv]) == 2\n"
        "assert not {'torch', 'numpy', 'PIL', 'onnxruntime', 'tqdm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 0, done.stderr


def test_a_bar_is_shown_for_folders_on_a_terminal(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for words, shown in ((["pictures"], True), (["pictures/*.jpg"], True), (["pictures/0-wide.jpg"], False)):
        assert main(["predict", *words, *FILE]) == 0
        out, err = capsys.readouterr()
        assert ("image/s" in err or "s/image" in err) is shown
        assert out.startswith(f"pictures/0-wide.jpg: {LABELS[0][:5]}")
