"""``alphanet train``: from a recipe to a supernet."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_zoo.cli.arguments import positive_float, positive_int
from alphanet_zoo.cli.command import CommandParser, deprecated, note, run_command, say
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_zoo.train.config import TrainConfig

EPILOG = """examples:
  %(prog)s digits
  %(prog)s digits output=runs/mine optim.lr=0.1 max_steps=200
  %(prog)s my_recipe.yaml --print-config
  %(prog)s --settings optim              what the settings optim.* mean
  %(prog)s own_images data.root=my_images                          a supernet for your own images
  %(prog)s finetune data.root=my_images finetune.model=alphanet_c10_m   an included net, on your images
  %(prog)s my_recipe.yaml --dry-run      time and memory, from the first 20 steps
  torchrun --nproc-per-node 8 -m alphanet_zoo.cli.train my_recipe.yaml

The output folder gets config.yaml, log.jsonl, run.html, checkpoints/step-<n>/ and final/model.safetensors. The same
command again, or alphanet resume FOLDER, continues the run. Ctrl-C (exit code 130) and SIGTERM (143) save a
checkpoint first."""

DRY_RUN_STEPS = 20
SETTINGS = {
    "-o": "output", "--data": "data.root", "--calib-data": "data.root", "--img-size": "data.image_size",
    "--model": "finetune.model", "--weights": "finetune.weights", "--supernet": "finetune.weights",
    "--arch": "finetune.arch", "--output": "output", "--seed": "seed", "--device": "device", "--space": "space",
    "--batch-size": "data.batch_size", "--workers": "data.workers", "--hold-out": "data.hold_out",
    "--epochs": "optim.epochs", "--lr": "optim.lr", "--max-steps": "max_steps", "--teacher": "sandwich.teacher",
}  # fmt: skip
"""Settings that are options of other commands or programs."""
_MOVED = ("verify-data", "export-supernet")
"""Subcommands of ``alphanet-train`` that are subcommands of ``alphanet`` now."""


class SettingsParser(CommandParser):
    """Accepts options between the settings, and ``--dry-run`` with or without a number."""

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses a command line."""
        words, rest = list[str](), list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--dry-run":  # argparse would take a recipe or a setting that follows for the number of steps.
                word = f"--dry-run={rest.pop(0) if rest and rest[0].lstrip('-').isdigit() else DRY_RUN_STEPS}"
            elif word.startswith("-") and word.partition("=")[0] not in self._option_string_actions:
                self._refuse_setting(word, rest)
            words.append(word)
        arguments: argparse.Namespace = self.parse_intermixed_args(words)
        return arguments

    def _refuse_setting(self, word: str, rest: Sequence[str]) -> None:
        """Refuses an unknown option that is a setting here, such as ``--data``, and names the setting."""
        option, equals, value = word.partition("=")
        setting = option.lstrip("-") if "." in option else SETTINGS.get(option)
        if setting is not None:
            value = (
                value if equals else next((text for text in rest[:1] if text[:1] != "-" and "=" not in text), "VALUE")
            )
            self.error(f"{option} is a setting here, without dashes: {setting}={shlex.quote(value)}")


def add_run_options(parser: CommandParser) -> None:
    """Adds the options that ``alphanet train`` and ``alphanet resume`` share."""
    parser.add_argument(
        "--time-limit",
        type=positive_float,
        metavar="SECONDS",
        help="save a checkpoint and stop after this time, as SIGTERM does",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads (default: OMP_NUM_THREADS, or one per core); use 1 on a machine that others use too",
    )


def prepare_threads(threads: int | None) -> None:
    """Configures OpenMP for a training process; must run before torch is imported.

    Idle threads sleep instead of spinning, unless the environment variable OMP_WAIT_POLICY is set. Spinning threads
    slow each other down if other programs use the cores.

    Args:
        threads: Number of threads; None keeps the default.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def make_parser(prog: str = "alphanet-train") -> CommandParser:
    """The command's parser."""
    parser = SettingsParser(prog, "Train a supernet from a recipe, or continue a run.", epilog=EPILOG)
    parser.add_argument("--config", metavar="RECIPE", help="another way to pass RECIPE")
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and exit")
    parser.add_argument(
        "--settings",
        dest="reference",
        nargs="?",
        const="",
        metavar="NAME",
        help="print all settings, or those whose names begin with NAME, with values, default and meaning, and exit",
    )
    parser.add_argument(
        "--dry-run",
        type=_dry_run_steps,
        metavar="STEPS",
        help=f"time STEPS steps (default: {DRY_RUN_STEPS}), estimate the whole run, write nothing to the output folder",
    )
    parser.add_argument(
        "--resume-anyway",
        action="store_true",
        help="continue the run in the output folder even if its settings differ",
    )
    add_run_options(parser)
    return parser


def _dry_run_steps(text: str) -> int:
    """An argparse type: two steps or more."""
    if not (text.isascii() and text.isdigit()) or int(text) < 2:
        raise UsageError(f"{text!r} is not a number of steps; pass --dry-run STEPS with 2 or more")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Resolves the config and trains."""
    from alphanet_zoo.train.config import load_config

    if arguments.reference is not None:
        from alphanet_zoo.train.settings import as_text, settings_of

        say(as_text(settings_of(arguments.reference)), required=True)
        return 0
    recipe, settings = arguments.recipe, arguments.settings
    if recipe is not None and (arguments.config is not None or "=" in recipe):
        recipe, settings = None, [recipe, *settings]
    recipe = arguments.config or recipe
    if recipe is None:
        raise UsageError("a recipe is required: pass its name or file first, or with --config "
                         "(alphanet recipes lists those that ship)")  # fmt: skip
    config = load_config(recipe, settings)
    if arguments.print_config:
        say(config.to_yaml().rstrip("\n"), required=True)
        return 0
    prepare_threads(arguments.threads)
    if config.optim.kernels == "compiled":
        from alphanet_zoo.train.memory import keep_freed_memory

        keep_freed_memory()
    if arguments.dry_run is not None:
        from alphanet_zoo.train.dryrun import dry_run

        figures = dry_run(config, arguments.dry_run)
        if figures is not None:
            say(str(figures), required=True)
        return 0
    return train(arguments, config, resume_anyway=arguments.resume_anyway)


def train(arguments: argparse.Namespace, config: TrainConfig, *, resume_anyway: bool = False) -> int:
    """Trains and prints the result; returns the exit code.

    Args:
        arguments: The command line, with ``prog``, ``time_limit`` and ``threads``.
        config: The run.
        resume_anyway: See `alphanet_zoo.train.loop.train`.
    """
    from alphanet_zoo.train import loop
    from alphanet_zoo.train.progress import described

    result = loop.train(config, resume_anyway=resume_anyway, time_limit=arguments.time_limit)
    output = shlex.quote(config.output)
    if os.environ.get("RANK", "0") != "0":  # One of torchrun's processes prints.
        return 0 if result.signal is None else 128 + result.signal
    if result.model is None:
        assert result.signal is not None
        threads = "" if arguments.threads is None else f" --threads {arguments.threads}"
        note(arguments.prog, f"stopped after step {result.step}; continue with: alphanet resume {output}{threads}")
        return 128 + result.signal
    if result.start == result.step:
        more = "set a larger max_steps to train longer" if result.step == config.max_steps else (
            "for a longer schedule, start a run with more optim.epochs and another output")  # fmt: skip
        note(arguments.prog, f"the run in {output} is complete ({result.step} steps); {more}")
    figures = [f"{name}: {described(measured)}" for name, measured in result.validation.items()]
    following = next_command(result.config, result.model)
    say("\n".join([*figures, f"{result.model} ({result.step} steps)", f"next: {following}"]))
    return 0


def next_command(config: TrainConfig, model: Path) -> str:
    """A command that uses the network of a finished run."""
    from alphanet_zoo.train.folder import digits_folder

    data, quoted = config.data, shlex.quote(str(model))
    if config.finetune.single:
        run, file = (shlex.quote(str(path)) for path in (config.output, Path(config.output, "net.onnx")))
        return f"alphanet export {run} -o {file}"
    if data.source == "multilabel":
        return f"alphanet export-supernet {shlex.quote(config.output)} -o net.safetensors"
    folders = ["TRAIN_FOLDER", "VAL_FOLDER"]
    if data.source in ("folder", "digits"):
        root = digits_folder(config) if data.root is None else Path(data.root)
        folders = [shlex.quote(str(root / part)) for part in (data.train, data.val)]
    scored = f"--hold-out {data.hold_out}" if data.hold_out else f"--data {folders[1]}"
    return f"alphanet search --supernet {quoted} --calib-data {folders[0]} {scored} -o front.json --best best.json"


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-train``, also for torchrun; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _MOVED:
        from alphanet_zoo.cli.main import main as alphanet

        deprecated(f"alphanet-train {arguments[0]}", f"alphanet {arguments[0]}")
        return alphanet(arguments)
    return run_command(make_parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
