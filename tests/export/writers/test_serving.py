from __future__ import annotations

import re
from pathlib import Path

import pytest

from alphanet_export.metadata import open_exported
from alphanet_export.writers.serving import config_pbtxt, write_repository
from alphanet_zoo.errors import UsageError
from tests.export.exported import tiny_onnx


@pytest.fixture(params=[False, True], ids=["fixed", "dynamic"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx(dynamic_batch=request.param))
    return path


def test_an_entry_of_a_model_repository(exported: Path, tmp_path: Path) -> None:
    written = write_repository(exported, tmp_path / "models")
    folder = tmp_path / "models" / "tiny"
    assert sorted(str(path.relative_to(folder)) for path in written) == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    assert written == {path: path.stat().st_size for path in written}
    assert (folder / "1" / "model.onnx").read_bytes() == exported.read_bytes()
    assert (folder / "labels.txt").read_text().splitlines() == [str(index) for index in range(10)]
    config = (folder / "config.pbtxt").read_text()
    dynamic = open_exported(exported).batch is None
    assert 'name: "tiny"\nplatform: "onnxruntime_onnx"\n' in config
    assert f"max_batch_size: {32 if dynamic else 0}\n" in config and ("dynamic_batching" in config) == dynamic
    shapes = [[int(n) for n in dims.split(",")] for dims in re.findall(r"dims: \[([^]]*)]", config)]
    assert shapes == ([[3, 12, 12], [10]] if dynamic else [[1, 3, 12, 12], [1, 10]])
    assert 'label_filename: "labels.txt"' in config and '\\"resize_size\\"' in config


def test_writing_again_replaces_and_leaves_other_models_alone(exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "models" / "other" / "config.pbtxt"
    other.parent.mkdir(parents=True)
    other.write_text("theirs")
    (tmp_path / "models" / "net-2").mkdir()
    (tmp_path / "models" / "net-2" / "config.pbtxt").write_text("old")
    write_repository(exported, tmp_path / "models", name="net-2")
    assert other.read_text() == "theirs"
    assert (tmp_path / "models" / "net-2" / "config.pbtxt").read_text().startswith('name: "net-2"')


def test_batches_that_do_not_fit(exported: Path, tmp_path: Path) -> None:
    model = open_exported(exported)
    if model.batch is None:
        assert "max_batch_size: 8\n" in config_pbtxt(model, "tiny", max_batch=8)
        wrong, message = 0, "pass 1 or more"
    else:
        assert "max_batch_size: 0\n" in config_pbtxt(model, "tiny", max_batch=0)
        wrong, message = 8, "--dynamic-batch"
    with pytest.raises(UsageError, match=message):
        write_repository(exported, tmp_path / "models", max_batch=wrong)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "two words"])
def test_names_that_no_model_can_have(name: str, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a valid model name"):
        write_repository(exported, tmp_path / "models", name=name)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_repository_that_is_a_file(exported: Path) -> None:
    for repository in (exported, exported / "models"):
        with pytest.raises(UsageError, match="pass a folder"):
            write_repository(exported, repository)
