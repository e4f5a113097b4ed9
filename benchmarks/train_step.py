"""Throughput and memory of a training step of the ImageNet supernet, compared with a straightforward implementation.

The step: batch 8, 224 pixels, four subnets (largest, two random ones, smallest), adaptive alpha-divergence, SGD. Both
modes run the same net on the same images from the same weights:

* plain: float32 in the contiguous layout, a swish with its own autograd function, eager, gradients reduced once per
  subnet (in a process group of one process, so at little cost), a loop over the parameters in the optimiser;
* ours: the step of `alphanet-train`, channels-last, one reduction per step, fused SGD, and with `--kernels compiled`
  the setting `optim.kernels=compiled` (CPU only).

The modes alternate, each in a new process, so that neither has the advantage of an idle machine or a warm allocator:

    python benchmarks/train_step.py --repeats 5 --kernels compiled
    python benchmarks/train_step.py --device cuda --batch-size 64 --steps 20 --bf16 --compile --shares

`--shares` also profiles one step of each mode, and prints the share of time of each class of kernels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

MODES = ("plain", "ours")
CLASSES = {
    "message": ("nccl", "all_reduce", "allreduce"),
    "depthwise convolution": ("depthwise",),
    "batch norm": ("batch_norm", "bn_fw", "bn_bw", "batchnorm", "norm_silu", "norm_swish"),
    "convolution": ("conv", "xmma", "cutlass", "dgrad", "wgrad", "fprop", "implicit", "mkldnn", "winograd"),
    "matrix product": ("gemm", "addmm", "mm", "gemv", "cublas"),
    "fused by the compiler": ("triton",),
    "resize and pooling": ("interpolate", "upsample", "pool", "_aa_"),
    "optimiser": ("multi_tensor", "fused_sgd", "foreach", "_sgd"),
    "copy": ("copy", "memcpy", "memset", "transpose", "nchwtonhwc", "nhwctonchw", "fill", "zero"),
    "element by element": (
        "elementwise",
        "silu",
        "swish",
        "sigmoid",
        "mul",
        "add",
        "div",
        "clamp",
        "where",
        "bernoulli",
    ),
    "reduction": ("reduce", "sum", "mean", "softmax", "norm"),
}
"""Classes of kernels (of operators, on a CPU), by words in their names. The first match counts."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times some steps of one mode in this process."""
    import torch

    from alphanet_zoo.nn.init import fill_live
    from alphanet_zoo.nn.model import AlphaNet
    from alphanet_zoo.space.presets import ALPHANET
    from alphanet_zoo.train.runlog import peak_memory
    from alphanet_zoo.train.sandwich import draw_archs

    mode, batch_size, device = arguments.mode, arguments.batch_size, torch.device(arguments.device)
    net = AlphaNet(ALPHANET.largest, ALPHANET, supernet=True)
    fill_live(net)
    net = net.to(device).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 224, 224, generator=generator).to(device)
    labels = (torch.arange(batch_size) % 1000).to(device)
    step = plain_step(net, images, labels) if mode == "plain" else our_step(net, images, labels, arguments)
    times, busy, losses = [], [], []
    for index in range(arguments.steps):
        began, began_busy = time.perf_counter(), time.process_time()
        losses.append(step(draw_archs(ALPHANET, 0, index)))
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        busy.append(time.process_time() - began_busy)
    seconds = median(times[1:])
    shares = kernel_shares(step, draw_archs(ALPHANET, 0, 0), device) if arguments.shares else {}
    return {"mode": mode, "seconds": seconds, "cpu_seconds": median(busy[1:]), "losses": losses,
            "images_per_second": batch_size / seconds, "mean_images_per_second": batch_size / fmean(times[1:]),
            "memory_mib": peak_memory(device) / 2**20, "shares": shares}  # fmt: skip


def kernel_shares(step: Any, archs: Any, device: Any) -> dict[str, float]:
    """The share of each class of kernels in the kernel time of one step, the largest first."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        step(archs)
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.device_type == (DeviceType.CUDA if on_gpu else DeviceType.CPU):
            name = event.key.lower()
            fitting = (kind for kind, words in CLASSES.items() if any(word in name for word in words))
            kind = next(fitting, "other")
            times[kind] = times.get(kind, 0.0) + (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    whole = sum(times.values())
    return {kind: time / whole for kind, time in sorted(times.items(), key=lambda item: -item[1])}


def our_step(net: Any, images: Any, labels: Any, arguments: argparse.Namespace) -> Any:
    """The training step of this package."""
    import torch

    from alphanet_zoo.train.config import OptimConfig, SandwichConfig
    from alphanet_zoo.train.distributed import Ranks
    from alphanet_zoo.train.gradients import Gradients
    from alphanet_zoo.train.graphs import GraphedPasses
    from alphanet_zoo.train.memory import keep_freed_memory
    from alphanet_zoo.train.optim import make_optimizer
    from alphanet_zoo.train.sandwich import (
        Losses,
        SandwichStep,
        compile_recurring,
        distillation_loss,
        label_loss_of,
    )

    if arguments.kernels == "compiled":  # As in alphanet-train.
        keep_freed_memory()
    net.kernels = arguments.kernels
    net.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    config = SandwichConfig()
    optimizer, gradients = make_optimizer(net, OptimConfig(lr=0.1, epochs=1)), Gradients(net)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    step = SandwichStep(
        net, optimizer, gradients, Losses(label_loss_of(config), distillation_loss(config)),
        Ranks(0, 1, images.device), clip_value=1.0, bf16=arguments.bf16,
        compiled=compile_recurring(net) if arguments.compile else {},
        graphs=GraphedPasses(gradients.flat) if arguments.cuda_graphs else None,
    )  # fmt: skip
    cap = arguments.cap
    return lambda archs: [
        float(outcome.loss) for outcome in step([(images, labels)], archs, resolution=cap).micro_batches[0]
    ]


def plain_step(net: Any, images: Any, labels: Any) -> Any:
    """A straightforward training step."""
    import torch
    import torch.distributed as dist
    from torch.nn import functional as F

    from alphanet_zoo.train.config import SandwichConfig
    from alphanet_zoo.train.sandwich import distillation_loss, label_loss_of

    class Swish(torch.autograd.Function):
        """x * sigmoid(x), with an explicit derivative."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (x,) = ctx.saved_tensors
            sigmoid = torch.sigmoid(x)
            return gradient * (sigmoid * (1 + x * (1 - sigmoid)))

    F.silu = Swish.apply
    dist.init_process_group("nccl" if images.is_cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = SandwichConfig()
    label_loss, distillation = label_loss_of(config), distillation_loss(config)
    assert distillation is not None
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-5, foreach=False)

    def step(archs: Any) -> list[float]:
        optimizer.zero_grad()
        losses: list[float] = []
        teacher: Any = None
        total = {parameter: torch.zeros_like(parameter) for parameter in net.parameters()}
        for arch in archs.values():
            logits = net(images, arch)
            loss = label_loss(logits, labels) if teacher is None else distillation(logits, teacher)
            teacher = logits.detach() if teacher is None else teacher
            loss.backward()
            for parameter in net.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    total[parameter] += parameter.grad
                    parameter.grad = None
            losses.append(float(loss.detach()))
        for parameter in net.parameters():
            parameter.grad = total[parameter].clamp_(-1.0, 1.0)
        optimizer.step()
        return losses

    return step


def main() -> None:
    """Runs the modes alternately and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="steps per turn; the first is not timed")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each mode")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--bf16", action="store_true", help="run the forward passes of mode ours in bfloat16; losses then differ"
    )
    parser.add_argument(
        "--kernels", choices=("torch", "compiled"), default="torch", help="value of optim.kernels for ours"
    )
    parser.add_argument(
        "--compile", action="store_true", help="as optim.compile: compile the largest and smallest subnet in mode ours"
    )
    parser.add_argument("--cuda-graphs", action="store_true", help="as optim.cuda_graphs, in mode ours")
    parser.add_argument("--shares", action="store_true", help="also print the share of time of each class of kernels")
    parser.add_argument("--schedule", type=json.loads, help="resolution schedule; also print the hours of a training")
    parser.add_argument("--cards", type=int, default=8, help="GPUs that --schedule assumes (default: 8)")
    parser.add_argument("--cap", type=int, help="largest resolution of a subnet in mode ours, in pixels")
    parser.add_argument("--mode", choices=MODES, help="run one turn of one mode; print JSON")
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps(measure(arguments)))
        return
    turns: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    for repeat in range(arguments.repeats):
        for mode in MODES if repeat % 2 == 0 else MODES[::-1]:
            command = [sys.executable, str(Path(__file__)), "--mode", mode, *sys.argv[1:]]
            turns[mode].append(
                json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            )
    for mode, results in turns.items():
        speeds = sorted(result["images_per_second"] for result in results)
        memory = max(result["memory_mib"] for result in results)
        busy = sorted(result["cpu_seconds"] for result in results)
        print(
            f"{mode:<6} {median(speeds):.2f} images/s ({speeds[0]:.2f} to {speeds[-1]:.2f}), "
            f"{median(busy):.2f} CPU seconds per step ({busy[0]:.2f} to {busy[-1]:.2f}), peak {memory:.0f} MiB"
        )
        if arguments.shares:
            print(" " * 6, ", ".join(f"{kind} {share:.1%}" for kind, share in results[0]["shares"].items()))
    for figure in ("seconds", "cpu_seconds"):
        ratios = sorted(p[figure] / o[figure] for o, p in zip(turns["ours"], turns["plain"], strict=True))
        print(f"plain / ours in {figure} per step, by turn: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    pairs = zip(turns["ours"][0]["losses"][0], turns["plain"][0]["losses"][0], strict=True)
    print("losses of the first step (ours, plain):", ", ".join(f"{a:.6f} {b:.6f}" for a, b in pairs))
    if arguments.schedule:
        print_hours(arguments.schedule, arguments.cards)


def print_hours(schedule: list[list[float]], cards: int) -> None:
    """Hours of 360 epochs of ImageNet (1,281,167 images) at the measured speeds, without and with a schedule."""
    speeds = {}
    for cap in [None, *(int(cap) for _, cap in schedule)]:
        more = [] if cap is None else ["--cap", str(cap)]
        command = [sys.executable, str(Path(__file__)), "--mode", "ours", *more, *sys.argv[1:]]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        speeds[cap] = json.loads(done.stdout)["mean_images_per_second"]
        print(f"largest resolution {cap or 'of the arch'}: {speeds[cap]:.1f} images/s", flush=True)
    images = 360 * 1_281_167
    for name, parts in (("no schedule", [(1.0, None)]), (json.dumps(schedule), schedule)):
        hours = sum(share * images / speeds[cap] for share, cap in parts) / cards / 3600
        print(f"360 epochs on {cards} cards, {name}: {hours:.1f} hours")


if __name__ == "__main__":
    main()
