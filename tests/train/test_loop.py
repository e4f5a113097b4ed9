import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.checkpoint import latest_checkpoint, load_checkpoint
from alphanet_zoo.data.batches import TrainingBatches
from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.folder import locked
from alphanet_zoo.train.guard import Guard
from alphanet_zoo.train.loop import train
from alphanet_zoo.train.state import RunState
from alphanet_zoo.zoo.files import load_net


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(20):
        path = folder / "train" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    return folder


def settings(root, output, *overrides):
    return [
        f"data.root={root}", f"output={output}", "data.source=folder", "data.batch_size=4", "optim.epochs=2",
        "optim.warmup_epochs=0.5", "sandwich.drop_rate=0.2", "sandwich.drop_path_rate=0.2", "log.progress=false",
        "log.every_steps=1", "checkpoint_every_steps=2", "device=cpu", *overrides,
    ]  # fmt: skip


def run(root, output, *overrides):
    return train(load_config("digits", settings(root, output, *overrides)))


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    return run(root, tmp_path_factory.mktemp("run") / "undisturbed")


def steps_logged(output):
    lines = [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "subnets" in line]


def test_a_run_leaves_its_folder(undisturbed):
    output = undisturbed.model.parents[1]
    assert (undisturbed.step, undisturbed.signal) == (10, None)
    names = ["checkpoints", "config.yaml", "final", "log.jsonl", "run.html"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-10", "step-6", "step-8"]
    assert load_config(str(output / "config.yaml")).output == str(output)
    assert steps_logged(output) == list(range(1, 11))
    line = json.loads((output / "log.jsonl").read_text().splitlines()[0])
    assert line["epoch"] == 0 and line["lr"] == pytest.approx(0.001 * load_config("digits").optim.lr)
    assert list(line["subnets"]) == ["largest", "random-1", "random-2", "smallest"]


def test_the_final_net_is_a_supernet_without_statistics_that_knows_its_classes(undisturbed):
    net = load_net(undisturbed.model)
    assert net.supernet and net.calibration is None and net.num_classes == 2
    assert net.pretrained_cfg["label_names"] == ("a", "b")
    assert net.bn1.running_mean.abs().max() == 0


SCHEDULE = "sandwich.resolution_schedule=[[0.5, 8], [0.3, 12], [0.2, 16]]"


def test_progressive_resolution_resumes_to_the_byte_across_phases(undisturbed, root, tmp_path):
    whole = run(root, tmp_path / "whole", SCHEDULE)
    for end in (4, 7, 10):  # phases end after steps 5, 8 and 10
        stopped = run(root, tmp_path / "stopped", SCHEDULE, f"max_steps={end}")
        assert stopped.step == end
    assert sha256_of(stopped.model) == sha256_of(whole.model) != sha256_of(undisturbed.model)


def test_a_schedule_caps_the_resolution_of_every_subnet(root, tmp_path, monkeypatch):
    sizes, config = [], load_config("digits", settings(root, tmp_path / "run", SCHEDULE))
    state = RunState(config, Ranks(0, 1, torch.device("cpu")))
    conv2d = torch.nn.functional.conv2d

    def noting(x, *arguments, **options):
        if x.shape[1] == 3:
            sizes.append(x.shape[-1])
        return conv2d(x, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", noting)
    smallest, largest = state.net.space.resolution[0], state.net.space.resolution[-1]
    assert (smallest, largest) == (12, 16)
    for step, allowed in [(0, {8}), (4, {8}), (5, {12}), (7, {12}), (8, {12, 16}), (9, {12, 16})]:
        sizes.clear()
        state.step = step
        state.advance(state.batches.batch(step))
        assert len(sizes) == 4 and set(sizes) <= allowed and max(sizes) == max(allowed), step
    assert state.phases == [(5, 8), (8, 12), (10, 16)]


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ("[[0.5, 8], [0.4, 16]]", "sum to 0.9"),
        ("[[1.0, 0]]", "greater than or equal to 1"),
        ("[[0.5", "resolution_schedule: pass a list, such as [a,b] (given: '[[0.5')"),
        ("12", "pass a list"),
    ],
)
def test_a_wrong_schedule_is_refused(schedule, named):
    with pytest.raises(UsageError, match=re.escape(named)):
        load_config("digits", [f"sandwich.resolution_schedule={schedule}"])


@pytest.mark.parametrize("stops", [[3], [1, 5, 6], [7]])
def test_a_stopped_run_ends_with_the_bytes_of_an_undisturbed_one(undisturbed, root, tmp_path, stops):
    for stop in stops:
        assert run(root, tmp_path, f"max_steps={stop}").step == stop
    final = run(root, tmp_path)
    assert sha256_of(final.model) == sha256_of(undisturbed.model)
    assert steps_logged(tmp_path) == list(range(1, 11))


def test_a_damaged_checkpoint_costs_steps_and_not_the_result(undisturbed, root, tmp_path):
    run(root, tmp_path, "max_steps=5")
    damaged = tmp_path / "checkpoints" / "step-5" / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="step-5.*using the previous one"):
        final = run(root, tmp_path)
    assert sha256_of(final.model) == sha256_of(undisturbed.model)
    assert steps_logged(tmp_path) == list(range(1, 11))


def test_with_every_checkpoint_damaged_it_refuses(root, tmp_path):
    run(root, tmp_path, "max_steps=2")
    (tmp_path / "checkpoints" / "step-2" / "state.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(AlphaNetError, match="are damaged"):
        run(root, tmp_path)


def test_another_config_is_refused_with_the_difference(undisturbed, root):
    output = undisturbed.model.parents[1]
    with pytest.raises(UsageError, match=r"optim.momentum: 0.9 -> 0.5"):
        run(root, output, "optim.momentum=0.5")
    with pytest.raises(UsageError, match="past its end at 4"):
        run(root, output, "max_steps=4")


def test_a_complete_run_stays_as_it_is(undisturbed, root):
    before = sha256_of(undisturbed.model)
    assert run(root, undisturbed.model.parents[1]).step == 10
    assert sha256_of(undisturbed.model) == before


def test_the_seed_matters(undisturbed, root, tmp_path):
    assert sha256_of(run(root, tmp_path, "seed=1").model) != sha256_of(undisturbed.model)


def test_the_callers_random_state_is_left_alone(root, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(root, tmp_path, "max_steps=1")
    assert torch.equal(torch.rand(3), expected)


def events(output):
    lines = [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["event"]) for line in lines if "event" in line]


def spoil(monkeypatch, wrong):
    """Has the batches of some draws (from 0) hold NaN."""
    stream = TrainingBatches.stream

    def spoiled(self, start, end, device):
        for draw, batch in zip(range(start, end), stream(self, start, end, device), strict=True):
            yield replace(batch, images=batch.images * float("nan")) if draw in wrong else batch

    monkeypatch.setattr(TrainingBatches, "stream", spoiled)


def test_a_step_that_is_not_finite_is_skipped(root, tmp_path, monkeypatch):
    spoil(monkeypatch, {4, 5, 7})
    result = run(root, tmp_path)
    assert result.step == 10 and events(tmp_path) == [(5, "skipped"), (6, "skipped"), (8, "skipped")]
    before, after = (load_checkpoint(tmp_path / "checkpoints" / f"step-{step}").tensors for step in (6, 8))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


def test_three_in_a_row_roll_back_to_other_batches_and_a_stop_around_it_changes_nothing(root, tmp_path, monkeypatch):
    spoil(monkeypatch, {4, 5, 6})
    result = run(root, tmp_path / "a")
    assert result.step == 10
    assert events(tmp_path / "a") == [(5, "skipped"), (6, "skipped"), (7, "rolled back")]
    state = load_checkpoint(tmp_path / "a" / "checkpoints" / "step-10").state["guard"]
    assert (state["rollbacks"], state["draw_offset"], state["skipped"]) == (1, 3, 0)
    for stop in (3, 5, 6, 7):
        assert run(root, tmp_path / "b", f"max_steps={stop}").step == stop
    assert sha256_of(run(root, tmp_path / "b").model) == sha256_of(result.model)


def test_outcomes_that_are_read_a_step_late_as_on_a_gpu_change_nothing(root, tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 4, 5, 6})
    settings = ("log.every_steps=100", "checkpoint_every_steps=4")
    expected = run(root, tmp_path / "a", *settings)
    monkeypatch.setattr("alphanet_zoo.train.loop.steps_ahead", lambda device: 1)
    assert sha256_of(run(root, tmp_path / "b", *settings).model) == sha256_of(expected.model)
    assert events(tmp_path / "b") == events(tmp_path / "a")
    assert events(tmp_path / "b") == [(3, "skipped"), (5, "skipped"), (6, "skipped"), (7, "rolled back")]


def test_the_second_rollback_stops_the_run_and_says_why(root, tmp_path, monkeypatch):
    spoil(monkeypatch, range(4, 1000))
    with pytest.raises(AlphaNetError, match=r"not finite in 3 steps in a row at step 7, after 1 earlier.*optim\.lr"):
        run(root, tmp_path)
    assert not (tmp_path / "final").exists()
    assert latest_checkpoint(tmp_path / "checkpoints").step == 6


def test_a_run_that_fails_before_its_first_checkpoint_begins_again(root, tmp_path, monkeypatch):
    spoil(monkeypatch, {1, 2, 3})
    result = run(root, tmp_path, "checkpoint_every_steps=100")
    assert result.step == 10 and events(tmp_path)[-1] == (4, "rolled back")


def test_a_collapse_to_chance_rolls_back(root, tmp_path, monkeypatch):
    settings = ("guard.memory_steps=1", "guard.learnt_share=0.9")
    observe = Guard.observe
    losses = iter([0.69, 0.5, 0.5, 0.5, 0.68, *[0.5] * 20])
    monkeypatch.setattr(Guard, "observe", lambda self, *, finite, loss: observe(self, finite=finite, loss=next(losses)))
    result = run(root, tmp_path, *settings)
    assert result.step == 10 and events(tmp_path) == [(5, "rolled back")]
    message = next(json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines() if "event" in x)["message"]
    assert "collapsed" in message and "continuing from step 4" in message


def test_a_second_run_in_the_same_folder_is_refused(root, tmp_path):
    with (
        locked(tmp_path, Ranks(0, 1, torch.device("cpu"))),
        pytest.raises(UsageError, match="another process is training in"),
    ):
        run(root, tmp_path)
    assert run(root, tmp_path, "max_steps=1").step == 1


def test_another_config_goes_on_where_that_is_accepted(root, tmp_path):
    run(root, tmp_path, "max_steps=4")
    config = load_config("digits", settings(root, tmp_path, "optim.momentum=0.5"))
    assert train(config, resume_anyway=True).step == 10
    assert events(tmp_path) == [(4, "config changed")]
    assert load_config(str(tmp_path / "config.yaml")).optim.momentum == 0.5


def test_an_average_of_the_weights_is_kept_saved_and_resumed(root, tmp_path):
    whole = run(root, tmp_path / "a", "optim.ema_decay=0.9")
    run(root, tmp_path / "b", "optim.ema_decay=0.9", "max_steps=5")
    assert run(root, tmp_path / "b", "optim.ema_decay=0.9").step == 10
    first, second = (tmp_path / name / "final" / "ema.safetensors" for name in "ab")
    assert sha256_of(first) == sha256_of(second) != sha256_of(whole.model)
    mean, last = load_net(first).state_dict(), load_net(whole.model).state_dict()
    assert 0 < float((mean["classifier.weight"] - last["classifier.weight"]).abs().max()) < 0.1


def test_a_run_in_micro_batches_and_in_bf16_goes_on_too(root, tmp_path):
    extra = ("optim.accumulate=2", "optim.precision=bf16")
    run(root, tmp_path / "a", *extra, "max_steps=3")
    run(root, tmp_path / "b", *extra, "max_steps=1")
    second = run(root, tmp_path / "b", *extra, "max_steps=3")
    assert sha256_of(second.model) == sha256_of(tmp_path / "a" / "final" / "model.safetensors")
    assert load_net(second.model).conv_stem.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="multiple of 3"):
        run(root, tmp_path / "c", "optim.accumulate=3")


def test_a_run_in_compiled_kernels_goes_on_too(undisturbed, root, tmp_path):
    extra = ("optim.kernels=compiled", "max_steps=2")
    whole = run(root, tmp_path / "a", *extra)
    run(root, tmp_path / "b", "optim.kernels=compiled", "max_steps=1")
    assert sha256_of(run(root, tmp_path / "b", *extra).model) == sha256_of(whole.model)
    torches = run(root, tmp_path / "c", "max_steps=2")
    assert sha256_of(torches.model) != sha256_of(whole.model), "the kernels were not used"
    with pytest.raises(UsageError, match="optim.kernels"):
        run(root, tmp_path / "a", "max_steps=2")
    with pytest.raises(UsageError, match="kernels=compiled requires precision=fp32"):
        run(root, tmp_path / "d", *extra, "optim.precision=bf16")


def test_sigterm_saves_and_the_same_command_goes_on(undisturbed, root, tmp_path):
    command = [sys.executable, "-m", "alphanet_zoo.cli.train", "--config", "digits", *settings(root, tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run ended before the signal came")
    assert process.returncode == 143 and "stopped after step" in errors
    stopped = max(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"stopped after step {stopped};" in errors and not (tmp_path / "run" / "final").exists()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert sha256_of(tmp_path / "run" / "final" / "model.safetensors") == sha256_of(undisturbed.model)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_data_worker_that_is_killed_ends_the_run_with_one_line(root, tmp_path):
    """PyTorch raises its error at any line of the main process, mostly during a step."""
    command = [sys.executable, "-m", "alphanet_zoo.cli.train", "--config", "digits",
               *settings(root, tmp_path / "run", "data.workers=2", "optim.epochs=10000")]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.005)
    worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(worker, signal.SIGKILL)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    last = errors.splitlines()[-1]
    assert process.returncode == 1 and "a data worker died" in last and "data.workers" in last, errors
    assert "Traceback" not in errors and latest_checkpoint(tmp_path / "run" / "checkpoints") is not None


def test_tensorboard_is_written_where_asked_for(root, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(root, tmp_path, "max_steps=2", "log.tensorboard=true")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"lr", "loss/largest", "divergence_alpha_min/smallest"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/largest")] == [1, 2]


def test_without_tensorboard_only_a_config_that_asks_for_it_fails(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[train\]"):
        run(root, tmp_path / "a", "max_steps=1", "log.tensorboard=true")
    assert run(root, tmp_path / "b", "max_steps=1").step == 1


def test_cuda_without_a_gpu_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no GPU"):
        run(root, tmp_path, "device=cuda")
