import json

import pytest
import torch

from alphanet_zoo.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from alphanet_zoo.errors import AlphaNetError


def checkpoint_of(step):
    return Checkpoint(
        step, {"model/a": torch.full((3, 2), float(step)), "n": torch.tensor(step)}, {"config": {"seed": 1}}
    )


def flip_a_byte(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_what_is_saved_is_loaded(tmp_path):
    path = save_checkpoint(tmp_path / "checkpoints", checkpoint_of(5), keep=2)
    assert path.name == "step-5"
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "state.json", "tensors.safetensors"]
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.state) == (5, {"config": {"seed": 1}})
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in checkpoint_of(5).tensors.items())
    assert loaded.tensors["n"].shape == ()


def test_the_newest_are_kept_by_number_and_not_by_name(tmp_path):
    for step in (8, 9, 10, 11):
        save_checkpoint(tmp_path, checkpoint_of(step), keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-9", "step-10", "step-11"]
    assert latest_checkpoint(tmp_path).step == 11


def test_a_checkpoint_can_be_written_again(tmp_path):
    save_checkpoint(tmp_path, checkpoint_of(5), keep=2)
    flip_a_byte(tmp_path / "step-5" / "tensors.safetensors")
    save_checkpoint(tmp_path, checkpoint_of(5), keep=2)
    assert load_checkpoint(tmp_path / "step-5").step == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None


def test_what_a_killed_write_leaves_is_no_checkpoint_and_goes(tmp_path):
    save_checkpoint(tmp_path, checkpoint_of(5), keep=2)
    (tmp_path / ".step-6.tmp").mkdir()
    (tmp_path / ".step-6.tmp" / "state.json").write_text("{")
    assert latest_checkpoint(tmp_path).step == 5
    save_checkpoint(tmp_path, checkpoint_of(7), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-5", "step-7"]


def test_the_only_checkpoint_is_found_where_a_killed_write_moved_it(tmp_path):
    save_checkpoint(tmp_path, checkpoint_of(5), keep=2).rename(tmp_path / ".step-5.old")
    (tmp_path / ".step-5.tmp").mkdir()
    assert latest_checkpoint(tmp_path).step == 5
    save_checkpoint(tmp_path, checkpoint_of(7), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-5", "step-7"]
    assert load_checkpoint(tmp_path / "step-5").step == 5


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_falls_back_to_the_one_before_with_a_warning(tmp_path, name, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint_of(step), keep=2)
    file = tmp_path / "step-2" / name
    if damage == "flip":
        flip_a_byte(file, -3)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.warns(UserWarning, match="step-2.* is damaged"):
        assert latest_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}}', '{"files": 3}'])
def test_a_damaged_manifest_is_damage(tmp_path, content):
    save_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    (tmp_path / "step-1" / "manifest.json").write_text(content)
    with pytest.raises(AlphaNetError, match="damaged"):
        load_checkpoint(tmp_path / "step-1")


def test_any_flipped_byte_of_the_manifest_is_found_or_harmless(tmp_path):
    path = save_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    whole = (path / "manifest.json").read_bytes()
    for position in range(len(whole)):
        (path / "manifest.json").write_bytes(whole)
        flip_a_byte(path / "manifest.json", position)
        try:
            loaded = load_checkpoint(path)
        except AlphaNetError:
            continue
        assert torch.equal(loaded.tensors["model/a"], checkpoint_of(1).tensors["model/a"])


def test_all_damaged_refuses_to_start_afresh(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint_of(step), keep=2)
        flip_a_byte(tmp_path / f"step-{step}" / "tensors.safetensors")
    with pytest.warns(UserWarning), pytest.raises(AlphaNetError, match="all 2 checkpoints .* are damaged"):
        latest_checkpoint(tmp_path)


def test_the_manifest_states_the_digests(tmp_path):
    from alphanet_zoo.files import sha256_of

    path = save_checkpoint(tmp_path, checkpoint_of(1), keep=2)
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert {name: entry["sha256"] for name, entry in files.items()} == {name: sha256_of(path / name) for name in files}
