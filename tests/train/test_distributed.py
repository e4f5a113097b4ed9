import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.files import sha256_of
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.loop import train
from alphanet_zoo.zoo.files import load_net

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(20):
        path = root / "train" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    return [
        f"data.root={root}", "data.source=folder", "data.batch_size=8", "optim.epochs=4", "optim.warmup_epochs=0.5",
        "sandwich.drop_rate=0.2", "sandwich.drop_path_rate=0.2", "log.progress=false", "log.every_steps=1",
        "checkpoint_every_steps=3", "device=cpu",
    ]  # fmt: skip


def torchrun(*arguments, check=True):
    done = subprocess.run(
        [*TORCHRUN, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


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


def test_one_process_spoils_a_step_and_another_is_told_to_stop(pair, settings, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import dataclasses, os, signal, sys
        from alphanet_zoo.train.config import load_config
        from alphanet_zoo.train.loader import TrainingBatches
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
                stream = run.stream()
                for _ in range(3):
                    sent[0], before, batch = 0, ranks.bytes_sent, next(stream)
                    run.figures(batch, run.advance(batch))
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
                f"data.root={tmp_path / 'data'}", "max_steps=500", "checkpoint_every_steps=10", "log.progress=false",
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
