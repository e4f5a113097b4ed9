"""``alphanet publish``: makes models available by name, on this machine, in a folder or on the Hub."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.cli.arguments import check_place, existing_path, positive_int
from alphanet_zoo.cli.command import CommandParser, say
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_export.publish import Item, Published, Recipe
    from alphanet_zoo.nn.family import Network

LICENSE = "CC BY-NC 4.0"
DEFAULT_IMAGES = 16_384
_ORGANISATION = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)

EPILOG = """examples:
  %(prog)s --upstream alphanet_pretrained.pth.tar --calib-data imagenet/train --to local --accept-license
  %(prog)s --upstream alphanet_pretrained.pth.tar --calib-data imagenet/train --val imagenet/val \\
      --labels-by-position --to ./published --accept-license
  %(prog)s --network runs/mine --arch front.json#3 --name mine --calib-data images/train --to local

The authors publish the checkpoint (0.2 GB) at https://github.com/facebookresearch/AlphaNet, under CC BY-NC 4.0
(non-commercial use). --accept-license confirms that you accept it. With --to local, the models are in this user's cache
(ALPHANET_HOME, or ~/.cache/alphanet_zoo): az.create_model('alphanet_a5', pretrained=True), torch.hub.load and
alphanet export --flops 444M --onnx then work without another option. A stopped command can be repeated: complete models
are kept."""


def make_parser(prog: str = "alphanet publish") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Convert, calibrate, measure and write models that load by name.", epilog=EPILOG)
    what = parser.add_argument_group("what to publish (one is required)").add_argument
    what("--upstream", type=existing_path, metavar="FILE", help="the authors' checkpoint: the supernet, A0 to A6 and "
         "A5-base")  # fmt: skip
    what("--network", metavar="NET", help="a network of your own: a training run, a .safetensors file or a folder of "
         "save_pretrained")  # fmt: skip
    what("--arch", action="append", default=[], metavar="ARCH", help="with a supernet as --network: a subnet to "
         "publish (a file, front.json#N, smallest or largest); may be repeated")  # fmt: skip
    what("--name", metavar="NAME", help="with --network: name of the model")
    what("--model", action="append", default=[], metavar="NAME", help="with --upstream: publish only this model; may "
         "be repeated (default: all, and the supernet)")  # fmt: skip
    add = parser.add_argument
    add("--to", required=True, metavar="local|DIR|ORG", help="'local' (this user's cache), a folder that exists or "
        "contains a /, or an organisation on the Hugging Face Hub")  # fmt: skip
    add("--calib-data", type=existing_path, metavar="FOLDER", help="training images, for batch-norm statistics")
    add("--calib-images", type=positive_int, default=DEFAULT_IMAGES, metavar="N", help="number of these images "
        f"(default: {DEFAULT_IMAGES})")  # fmt: skip
    add("--val", type=existing_path, metavar="FOLDER", help="validation images, to measure top-1")
    add("--seeds", type=positive_int, default=3, metavar="N", help="calibrations whose top-1 is measured with --val "
        "(default: 3); the first is published")  # fmt: skip
    add("--labels-by-position", action="store_true", help="class i of --val is output i of the model")
    add("--no-onnx", action="store_true", help="write no ONNX files")
    add("--sign-key", type=existing_path, metavar="KEY.pem", help="sign every folder with this elliptic-curve key "
        "(Sigstore's model-signing, extra 'sign')")  # fmt: skip
    add("--accept-license", action="store_true", help=f"accept the licence of the authors' weights, {LICENSE}")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Publishes the models."""
    organisation = _check(arguments)
    from alphanet_export.publish import publish, upload
    from alphanet_zoo.zoo.local import models_folder

    target = Path(arguments.to)
    if arguments.to == "local":
        target = models_folder()
    elif organisation:
        target = models_folder().parent / "uploads" / organisation
    check_place(target, "--to", folder=True)
    net, items, recipe = _opened(arguments)
    published = publish(net, items, recipe, target, say=say)
    if arguments.sign_key is not None:
        from alphanet_zoo.zoo.signing import sign_folder

        for each in published:
            say(f"signed: {sign_folder(each.model.folder, arguments.sign_key)}")
    if organisation:
        pins = upload(published, organisation, say=say)
        say("pins for alphanet_zoo/zoo/pins.py:\n" + "\n".join(pins))
    elif arguments.to == "local":
        say(_next(published))
    return 0


def _check(arguments: argparse.Namespace) -> str | None:
    """Refuses a wrong command line before anything is loaded; returns the organisation to upload to, or None."""
    if (arguments.upstream is None) == (arguments.network is None):
        raise UsageError("pass either --upstream FILE or --network NET")
    if arguments.upstream is not None:
        if not arguments.accept_license:
            raise UsageError(
                f"the authors' weights are licensed under {LICENSE} (non-commercial use); pass --accept-license if you "
                "accept that licence"
            )
        if arguments.calib_data is None:
            raise UsageError("--upstream requires --calib-data FOLDER, training images for batch-norm statistics")
        if arguments.arch or arguments.name:
            raise UsageError("--arch and --name require --network; with --upstream, pass --model NAME")
    elif arguments.model:
        raise UsageError("--model requires --upstream; with --network, pass --arch ARCH")
    elif arguments.name is None:
        raise UsageError("--network requires --name NAME")
    if arguments.name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", arguments.name, re.ASCII):
        raise UsageError(f"--name is {arguments.name!r}; pass letters, digits, '_', '-' and '.'")
    for flag in ("calib_data", "val"):
        folder = getattr(arguments, flag)
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--{flag.replace('_', '-')} {folder} is not a folder; pass one with a folder of images "
                             "for each class")  # fmt: skip
    text = arguments.to
    if text == "local" or "/" in text or Path(text).exists():
        return None
    if not _ORGANISATION.fullmatch(text):
        raise UsageError(f"--to is {text!r}; pass local, a folder such as ./published, or an organisation")
    return str(text)


def _opened(arguments: argparse.Namespace) -> tuple[Network, list[Item], Recipe]:
    """The network, the models to take from it, and how they are made."""
    from alphanet_export.publish import Recipe
    from alphanet_zoo.data.folder import FolderSource
    from alphanet_zoo.zoo.open import open_net

    calibration = None if arguments.calib_data is None else FolderSource(arguments.calib_data)
    validation = None if arguments.val is None else FolderSource(arguments.val)
    opened = open_net(arguments.upstream or arguments.network)
    if arguments.upstream is not None and opened.kind != "checkpoint":
        raise UsageError(f"{arguments.upstream} is not the authors' checkpoint (.pth.tar); pass it as --network")
    recipe = Recipe(
        source=Path(opened.source).name, sha256=opened.sha256, calibration=calibration, validation=validation,
        images=arguments.calib_images, seeds=tuple(range(arguments.seeds)),
        labels_by_position=arguments.labels_by_position, onnx=not arguments.no_onnx,
    )  # fmt: skip
    items = _family(arguments.model) if arguments.upstream is not None else _own(arguments, opened.net)
    return opened.net, items, recipe


def _family(names: list[str]) -> list[Item]:
    """The models of the authors' checkpoint, and the supernet unless names are chosen."""
    from alphanet_export.publish import Item
    from alphanet_zoo.space.presets import IMAGENET_FAMILY
    from alphanet_zoo.zoo.names import find_member

    members = [find_member(name) for name in names] if names else IMAGENET_FAMILY
    others = [member.name for member in members if member not in IMAGENET_FAMILY]
    if others:
        raise UsageError(f"{others[0]} is not in the authors' checkpoint")
    items = [Item(member.name, member.arch, member.top1) for member in members]
    return items if names else [Item("alphanet_supernet"), *items]


def _own(arguments: argparse.Namespace, net: Network) -> list[Item]:
    """The models of a network of the user's own."""
    from alphanet_export.publish import Item
    from alphanet_zoo.zoo.archs import find_arch
    from alphanet_zoo.zoo.names import is_name

    if is_name(arguments.name):
        raise UsageError(f"--name {arguments.name} is the name of a published model; pass another name")
    if arguments.arch and not net.supernet:
        raise UsageError(f"{arguments.network} is not a supernet; remove --arch")
    archs: list[Any] = [find_arch(each, net.space) for each in arguments.arch]
    if len(archs) == 1:
        return [Item(arguments.name, archs[0].arch)]
    names = [f"{arguments.name}-{each.name}" for each in archs]
    if len(set(names)) < len(names):
        raise UsageError("two --arch have the same name; rename a file")
    return [Item(name, each.arch) for name, each in zip(names, archs, strict=True)] or [Item(arguments.name)]


def _next(published: list[Published]) -> str:
    """What can be done with the models now."""
    names = [each.model.name for each in published if not each.model.name.endswith("supernet")]
    if not names:
        return "next: alphanet models"
    return (
        f"next: alphanet models; alphanet export {names[-1]} --format onnx; alphanet predict --model {names[-1]} IMAGE"
    )
