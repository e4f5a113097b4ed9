import contextlib
import json
import os
import random
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.checkpoint import latest_checkpoint, load_checkpoint
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.train.config import DistributedConfig, load_config
from alphanet_zoo.train.distributed import Ranks, joined
from alphanet_zoo.train.loop import train
from alphanet_zoo.train.validation import Validator
from alphanet_zoo.zoo.files import load_net
from tests.train.pair import ENVIRONMENT, TORCHRUN, torchrun


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(27):
        path = root / ("train" if index < 20 else "val") / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    return [
        f"data.root={root}", "data.source=folder", "data.batch_size=8", "optim.epochs=4", "optim.warmup_epochs=0.5",
        "sandwich.drop_rate=0.2", "sandwich.drop_path_rate=0.2", "log.progress=false", "log.every_steps=1",
        "checkpoint_every_steps=3", "device=cpu",
    ]  # fmt: skip


def lines(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pair(settings, tmp_path_factory):
    output = tmp_path_factory.mktemp("pair") / "run"
    done = torchrun("-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={output}", *settings)
    assert done.stdout.count("(8 steps)") == 1
    return output


def test_two_processes_equal_one_that_accumulates_the_same_halves(pair, settings, tmp_path):
    alone = train(load_config("digits", [*settings, f"output={tmp_path}", "optim.accumulate=2"]))
    ours, theirs = load_net(pair / "final" / "model.safetensors"), load_net(alone.model)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-5, atol=1e-5)
    for line, other in zip(lines(pair), lines(tmp_path), strict=True):
        assert line["step"] == other["step"]
        assert line["subnets"]["largest"] == pytest.approx(other["subnets"]["largest"], rel=1e-4, abs=1e-5)
        for name, figures in line["subnets"].items():  # the surrogate and the choice jump where the ends tie
            measured = [key for key in figures if key.startswith(("divergence", "accuracy"))]
            for key in measured:
                assert figures[key] == pytest.approx(other["subnets"][name][key], rel=1e-3, abs=1e-5)
    whole = train(load_config("digits", [*settings, f"output={tmp_path / 'whole'}"]))
    assert sha256_of(whole.model) != sha256_of(alone.model)


def test_synchronised_batch_norm_equals_one_process_with_the_whole_batch(settings, tmp_path):
    extra = ["distributed.sync_bn=true", "sandwich.drop_rate=0", "sandwich.drop_path_rate=0", "max_steps=4",
             "validation.every_epochs=2", "validation.calibration_batches=2", "validation.batch_size=3"]  # fmt: skip
    torchrun("-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={tmp_path / 'pair'}", *settings, *extra)
    config = load_config("digits", [*settings, *extra, f"output={tmp_path / 'alone'}"])
    alone = load_net(train(config).model)
    pair = load_net(tmp_path / "pair" / "final" / "model.safetensors")
    for name, tensor in pair.state_dict().items():
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-5, atol=1e-5)
    # The processes' shares of the validation images, 4 and 3, are one process's 7.
    measured = Validator(config, Ranks(0, 1, torch.device("cpu")))(pair.train(), lambda: False)
    assert measured["largest"]["images"] == 7
    assert [line["validation"] for line in lines(tmp_path / "pair") if "validation" in line] == [measured]


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_rest_may_be_done_by_one(pair, settings, tmp_path):
    script, output = tmp_path / "script.py", tmp_path / "run"
    script.write_text(
        textwrap.dedent("""
        import os, signal, sys
        from alphanet_zoo.cli.train import main
        from alphanet_zoo.train.state import RunState

        advance = RunState.advance

        def dies(self, *rest):
            if self.step == 4 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            return advance(self, *rest)

        RunState.advance = dies
        sys.exit(main(["--config", "digits", *sys.argv[1:]]))
    """)
    )
    torchrun("--max-restarts", 1, script, f"output={output}", *settings, "max_steps=6",
             TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")  # fmt: skip
    ours, theirs = (load_checkpoint(run / "checkpoints" / "step-6").tensors for run in (output, pair))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert [line["step"] for line in lines(output)] == list(range(1, 7))
    result = train(load_config("digits", [*settings, f"output={output}"]))
    assert [line["message"] for line in lines(output) if "event" in line] == [
        "each process uses 2 micro-batches per step"
    ]
    final = load_net(pair / "final" / "model.safetensors").state_dict()
    for name, tensor in load_net(result.model).state_dict().items():
        torch.testing.assert_close(tensor, final[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_data_workers_within_ten_seconds(number, settings, tmp_path):
    script, output = tmp_path / "script.py", tmp_path / "run"
    script.write_text(
        textwrap.dedent("""
        import os, sys
        from alphanet_zoo.train.config import load_config
        from alphanet_zoo.train.loop import train

        result = train(load_config("digits", sys.argv[1:]))
        print(f"rank {os.environ['RANK']}: step {result.step}, signal {result.signal}", flush=True)
        sys.exit(128 + result.signal)
    """)
    )
    command = [*TORCHRUN, str(script), f"output={output}", *settings, "optim.epochs=5000", "data.workers=2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 180
    while logged(output) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    began = time.monotonic()
    printed, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    step = max(int(path.name.removeprefix("step-")) for path in (output / "checkpoints").iterdir())
    assert sorted(printed.splitlines()) == [f"rank {rank}: step {step}, signal {number.value}" for rank in (0, 1)]
    assert process.returncode != 0 and latest_checkpoint(output / "checkpoints").step == step
    print(f"{seconds:.1f} s")
    assert seconds < 10


def test_restarts_that_would_wait_for_ever_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_MAX_RESTARTS": "3",
                        "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), joined("cpu", DistributedConfig()):
        pass


@pytest.mark.slow
def test_one_process_spoils_a_step_and_another_must_stop(pair, settings, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import dataclasses, os, signal, sys
        from alphanet_zoo.train.config import load_config
        from alphanet_zoo.data.batches import TrainingBatches
        from alphanet_zoo.train.loop import train

        stream, rank, spoiled = TrainingBatches.stream, int(os.environ["RANK"]), int(sys.argv[1])

        def disturbed(self, start, end, device):
            for draw, batch in zip(range(start, end), stream(self, start, end, device)):
                if draw == spoiled and rank == 1:
                    batch = dataclasses.replace(batch, images=batch.images * float("nan"))
                if draw == 4 and rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        TrainingBatches.stream = disturbed
        result = train(load_config("digits", sys.argv[2:]))
        print(f"rank {rank}: step {result.step}, signal {result.signal}, model {result.model}", flush=True)
    """)
    )
    stopped = torchrun(script, -1, f"output={tmp_path / 'stopped'}", *settings).stdout
    assert all(f"rank {rank}: step 5, signal 15, model None" in stopped for rank in (0, 1))
    assert (tmp_path / "stopped" / "checkpoints" / "step-5").is_dir()
    torchrun("-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={tmp_path / 'stopped'}", *settings)
    assert sha256_of(tmp_path / "stopped" / "final" / "model.safetensors") == sha256_of(
        pair / "final" / "model.safetensors"
    )
    torchrun(script, 1, f"output={tmp_path / 'spoiled'}", *settings)
    assert [(x["step"], x["event"]) for x in lines(tmp_path / "spoiled") if "event" in x] == [(2, "skipped")]


@pytest.mark.slow
def test_a_step_sends_one_gradients_worth_of_bytes(settings, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch, torch.distributed as dist
        from alphanet_zoo.train.config import load_config
        from alphanet_zoo.train.distributed import joined
        from alphanet_zoo.train.state import RunState

        sent = [0]
        all_reduce = dist.all_reduce
        def counting(tensor, *rest, **more):
            sent[0] += tensor.nbytes
            return all_reduce(tensor, *rest, **more)
        dist.all_reduce = counting
        extras = (), ("distributed.bf16_gradients=true",), ("sandwich.sampling=worst_up", "sandwich.window=2e5")
        configs = [load_config("digits", [*sys.argv[1:], *extra]) for extra in extras]
        with joined("cpu", configs[0].distributed) as ranks:
            for config in configs:
                run = RunState(config, ranks)
                with run.stream() as stream:
                    for _ in range(3):
                        sent[0], before, batch = 0, ranks.bytes_sent, next(stream)
                        run.metrics(batch, run.advance(batch))
                        width = 2 if config.distributed.bf16_gradients else 4
                        size = width * sum(p.numel() for p in run.net.parameters())
                        assert sent[0] == ranks.bytes_sent - before
                        assert size < sent[0] <= size + 4096, (sent, size)
                weights = torch.cat([p.detach().flatten() for p in run.net.parameters()])
                assert ranks.sum_(weights.clone()).equal(weights * 2)
    """)
    )
    torchrun(script, f"output={tmp_path / 'run'}", *settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_the_first_process_raises_is_raised(settings, tmp_path):
    done = torchrun(
        "-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={tmp_path / 'run'}", *settings,
        "data.batch_size=7", check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "over all processes" in done.stderr


def test_one_process_alone_sends_nothing():
    ranks = Ranks(0, 1, torch.device("cpu"))
    assert ranks.mean([1.0, 2.5]) == [1.0, 2.5] and ranks.from_first(lambda: 3) == 3
    assert ranks.sum_(torch.ones(2)).tolist() == [1, 1] and ranks.bytes_sent == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    def command(name):
        return [*TORCHRUN, "-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={tmp_path / name}",
                "max_steps=500", "checkpoint_every_steps=10", "log.progress=false",
                "log.every_steps=1", "device=cpu"]  # fmt: skip

    subprocess.run(command("whole"), env=ENVIRONMENT, check=True, capture_output=True)
    rng, lost, output = random.Random(0), [], tmp_path / "killed"
    while len(lost) < 20:
        process = subprocess.Popen(command("killed"), env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        goal, deadline = logged(output) + rng.randrange(5, 30), time.monotonic() + 120
        while logged(output) < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        kill_with_workers(process)
        saved = max((int(path.name.removeprefix("step-")) for path in output.glob("checkpoints/step-*")), default=0)
        lost.append(logged(output) - saved)
    subprocess.run(command("killed"), env=ENVIRONMENT, check=True, capture_output=True)
    whole, killed = (tmp_path / name / "final" / "model.safetensors" for name in ("whole", "killed"))
    print(f"steps lost: {lost}")
    assert sha256_of(whole) == sha256_of(killed)
    assert all(0 <= steps <= 10 for steps in lost)


def logged(output):
    path = output / "log.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kill_with_workers(process):
    """torchrun's workers have sessions of their own: each is killed by its number."""
    assert process.poll() is None, "the run ended before it was killed"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in (process.pid, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{number}").exists() for number in children):
        time.sleep(0.01)
