"""Saving to a folder of one's own, and loading from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.hub import from_pretrained, save_pretrained
from tests.zoo.saved import live_net


def test_a_folder_round_trips(folder: Path) -> None:
    net = AlphaNet.from_pretrained(folder)
    assert net.arch == ALPHANET_TINY.smallest and net.space == ALPHANET_TINY and not net.training
    assert net.config() == live_net().config()
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), live_net().state_dict().values(), strict=True)
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_wrong_digest_never_deletes_a_users_file(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    weights = tmp_path / "mine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(AlphaNetError, match="SHA-256"):
        from_pretrained(tmp_path / "mine")
    with pytest.raises(AlphaNetError, match="that of the pin is"):
        from_pretrained(folder, sha256="1" * 64)
    assert weights.is_file() and (folder / "model.safetensors").is_file()


def test_a_folder_with_only_a_pickle_is_refused(tmp_path: Path, folder: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(AlphaNetError, match="has no model.safetensors"):
        from_pretrained(tmp_path)


def test_a_config_that_is_no_json_is_refused(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    for text in ("{", "[1]", ""):
        (tmp_path / "mine" / "config.json").write_text(text)
        with pytest.raises(AlphaNetError, match="JSON"):
            from_pretrained(tmp_path / "mine")


def test_save_arguments_are_checked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        save_pretrained(live_net(), tmp_path / "file")
    with pytest.raises(UsageError, match="push_to_hub=True"):
        save_pretrained(live_net(), tmp_path / "new", repo_id="a/b")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="is a file"):
        from_pretrained(tmp_path / "file")


def test_a_card_that_exists_is_kept_and_one_without_accuracy_names_none(folder: Path, tmp_path: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "unknown" and card.data.eval_results is None
    assert card.data.library_name == "timm" and card.data.pipeline_tag == "image-classification"
    assert "averaged over 64 training images" in card.text and "Accuracy: not measured" in card.text
    (tmp_path / "README.md").write_text("My card.")
    live_net().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My card."


def test_a_folder_cannot_name_code_to_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    config["alphanet"] |= {"model_type": "slimmable", "network": "os:getcwd", "options": {}}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    with pytest.raises(AlphaNetError, match="its network 'os:getcwd' names code, which a saved folder must not"):
        AlphaNet.from_pretrained(tmp_path / "mine")


def test_a_folder_in_another_format_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    del config["alphanet"]
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    with pytest.raises(AlphaNetError, match="does not describe a network.*save_pretrained"):
        from_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"label_names": ["x"] * 10})
    )
    with pytest.raises(AlphaNetError, match="differ in pretrained_cfg"):
        from_pretrained(tmp_path / "mine")


def test_a_supernet_is_saved_and_refused_by_timm_only(tmp_path: Path) -> None:
    net = build_supernet(ALPHANET_TINY, 10)
    net.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).supernet and "timm.create_model" not in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["supernet"] is True
