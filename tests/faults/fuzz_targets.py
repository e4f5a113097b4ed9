"""The readers that `tests.faults.fuzz` calls, their valid files, and the changes of these."""

from __future__ import annotations

import io
import json
import random
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alphanet_zoo.errors import AlphaNetError

Mutate = Callable[[random.Random, list[bytes]], bytes]
Read = Callable[[Path], object]

SIZES = (0, 1, -1, 2, 7, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64, 10**30)
VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", "nan", "../../x", "/etc/passwd", "\0", "\ud800", "9" * 50, 0.5, -0.5, 1e308, 1e-320,
    float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], {"a": 1}, {"": {}}, [1, 2, 3], ["x"], *SIZES,
)  # fmt: skip
TOKENS = (b"NaN", b"Infinity", b"-1e999", b"null", b"true", b"{}", b"[]", b'""', b'"\\ud800"', b"\xff\xfe", b"\0", b",",
          b":", b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"- " * 300, b"&a [*a]", b"*a", b"!!python/name:os.system ",
          b"2001-99-99", b"1:99:99", b"0x", b"#1")  # fmt: skip


def mutated_bytes(draw: random.Random, seeds: list[bytes]) -> bytes:
    """Bits, bytes and parts that are flipped, replaced, added, removed, repeated or taken from another file."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 4)):
        at, other = draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)
        near = min(len(content), at + draw.randint(1, 16))
        match draw.randrange(8):
            case 0 if at < len(content):
                content[at] ^= 1 << draw.randrange(8)
            case 1:
                content[at:near] = draw.randbytes(near - at)
            case 2:
                content[at:at] = draw.choice(TOKENS)
            case 3:
                del content[at:near]
            case 4:
                content[at:at] = content[min(at, other) : max(at, other)][:4096]
            case 5:
                del content[at:]
            case 6:
                content[at : at + 8] = struct.pack("<Q", draw.choice(SIZES) % 2**64)
            case _:
                source = draw.choice(seeds)
                start = draw.randrange(len(source) + 1)
                content[at:near] = source[start : start + draw.randint(1, 64)]
    return bytes(content)


def mutated_value(draw: random.Random, value: Any) -> Any:
    """A plain value, a copy, in which one value or key is replaced, removed, repeated or nested."""
    value = json.loads(json.dumps(value))
    holders: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        inner = list(each.items()) if isinstance(each, dict) else list(enumerate(each))
        holders += [(each, key) for key, _ in inner]
        waiting += [held for _, held in inner if isinstance(held, dict | list)]
    if not holders:
        return draw.choice(VALUES)
    holder, key = draw.choice(holders)
    match draw.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(("", "x", "arch", "family", "model_type", "0", "__class__"))] = holder.pop(key)
        case 1:
            holder.insert(key, draw.choice(VALUES))
        case 2:
            other, place = draw.choice(holders)
            if isinstance(other, dict) and place in other or isinstance(other, list) and place < len(other):
                holder[key] = json.loads(json.dumps(other[place]))
        case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * draw.choice((-1, 0, 0.5, 2, 10**6, 10**18)) + draw.choice((0, 1, -1))
        case 4 if isinstance(holder[key], list):
            holder[key] = holder[key] * draw.choice((0, 2, 1000))
        case 5:
            nested: Any = holder[key]
            for _ in range(draw.choice((1, 50, 300))):
                nested = [nested]
            holder[key] = nested
        case _:
            holder[key] = draw.choice(VALUES)
    return value


def changed(draw: random.Random, value: Any) -> Any:
    """A plain value after 1 to 3 changes."""
    for _ in range(draw.randint(1, 3)):
        value = mutated_value(draw, value)
    return value


def mutated_json(draw: random.Random, seeds: list[bytes]) -> bytes:
    """A JSON file in which values change, or its bytes."""
    if draw.random() < 0.3:
        return mutated_bytes(draw, seeds)
    return json.dumps(changed(draw, json.loads(draw.choice(seeds)))).encode()


def mutated_yaml(draw: random.Random, seeds: list[bytes]) -> bytes:
    """A YAML file in which values change, or its bytes."""
    if draw.random() < 0.3:
        return mutated_bytes(draw, seeds)
    tree = changed(draw, yaml.safe_load(draw.choice(seeds)))
    for write in (yaml.safe_dump, json.dumps):  # JSON is YAML too, and can be nested more deeply.
        try:
            return write(tree).encode("utf-8", "surrogatepass")
        except RecursionError:
            continue
    return mutated_bytes(draw, seeds)


def mutated_table(draw: random.Random, seeds: list[bytes]) -> bytes:
    """A front as JSON or CSV."""
    tables = [seed for seed in seeds if not seed.startswith(b"{")]
    return (
        mutated_json(draw, [s for s in seeds if s.startswith(b"{")])
        if draw.random() < 0.7
        else mutated_bytes(draw, tables)
    )


def mutated_tensors(draw: random.Random, seeds: list[bytes]) -> bytes:
    """A safetensors file in which the header, the config in it, or the bytes change."""
    choice = draw.random()
    if choice < 0.3:
        return mutated_bytes(draw, seeds)
    content = draw.choice(seeds)
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    if choice < 0.7:
        config = json.loads(header["__metadata__"]["alphanet"])
        header["__metadata__"]["alphanet"] = json.dumps(changed(draw, config))
    else:
        header = changed(draw, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def mutated_onnx(draw: random.Random, seeds: list[bytes]) -> bytes:
    """An ONNX file in which a field, the metadata or the bytes change; some with digests that fit."""
    import onnx

    from alphanet_export.onnx_model import SEAL, sealed

    choice = draw.random()
    if choice < 0.3:
        return mutated_bytes(draw, seeds)
    proto = onnx.load_model_from_string(draw.choice(seeds))
    entries = {entry.key: entry.value for entry in proto.metadata_props if entry.key != SEAL}
    if choice < 0.6:
        values = {key: json.loads(text) for key, text in entries.items()}
        entries = {key: json.dumps(value) for key, value in changed(draw, values).items()}
    else:
        for _ in range(draw.randint(1, 3)):
            _change_field(draw, proto)
    try:
        onnx.helper.set_model_props(proto, entries)
        content: bytes = proto.SerializeToString()
        return sealed(content) if draw.random() < 0.5 else content
    except Exception:  # Values that ONNX cannot hold, such as lone surrogates.
        return mutated_bytes(draw, seeds)


def _change_field(draw: random.Random, proto: Any) -> None:
    """Changes a random field of a random message inside a model."""
    message = proto
    while draw.random() < 0.85:
        inner = []
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                inner.append(draw.choice(value) if hasattr(value, "add") else value)
        if not inner:
            break
        message = draw.choice(inner)
    fields = message.ListFields()
    if not fields:
        return
    descriptor, value = draw.choice(fields)
    try:
        if descriptor.message_type is not None and hasattr(value, "add"):
            if draw.random() < 0.5:
                del value[draw.randrange(len(value))]
            else:
                value.add().CopyFrom(draw.choice(value))
        elif hasattr(value, "append"):
            value[draw.randrange(len(value))] = draw.choice(SIZES)
        elif isinstance(value, str):
            setattr(
                message, descriptor.name, draw.choice(("", "x", "../x", "/etc/passwd", "Loop", "If", "com.example"))
            )
        elif isinstance(value, bytes):
            setattr(message, descriptor.name, value[: draw.randrange(len(value) + 1)])
        elif isinstance(value, int):
            setattr(message, descriptor.name, draw.choice(SIZES))
        else:
            message.ClearField(descriptor.name)
    except (TypeError, ValueError):  # Out of the range of the field.
        message.ClearField(descriptor.name)


def static_net(folder: Path) -> Any:
    """A small network."""
    from alphanet_zoo.nn.init import fill_live
    from alphanet_zoo.nn.model import AlphaNet
    from alphanet_zoo.space.presets import ALPHANET_TINY

    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10), seed=1).eval()
    net.calibration = "training"
    return net


def weights_seeds(folder: Path) -> list[bytes]:
    from alphanet_zoo.nn.model import build_supernet
    from alphanet_zoo.space.presets import ALPHANET_TINY
    from alphanet_zoo.zoo.files import save_net

    for name, net in (("net", static_net(folder)), ("supernet", build_supernet(ALPHANET_TINY, 3))):
        save_net(net, folder / f"{name}.safetensors")
    return [(folder / f"{name}.safetensors").read_bytes() for name in ("net", "supernet")]


def weights_reader(folder: Path) -> Read:
    from alphanet_zoo.zoo.files import load_net

    return load_net


def config_seeds(folder: Path) -> list[bytes]:
    static_net(folder).save_pretrained(folder / "saved")
    return [(folder / "saved" / "config.json").read_bytes()]


def config_reader(folder: Path) -> Read:
    from alphanet_zoo.zoo.hub import from_pretrained

    def read(path: Path) -> object:
        path.with_name("model.safetensors").write_bytes((folder / "saved" / "model.safetensors").read_bytes())
        path.replace(path.with_name("config.json"))
        return from_pretrained(path.parent)

    return read


def manifest_seeds(folder: Path) -> list[bytes]:
    from alphanet_zoo.zoo.local import MANIFEST, write_manifest

    config_seeds(folder)
    write_manifest(folder / "saved", {"source": "x", "top1": [1.0], "arch": None})
    return [(folder / "saved" / MANIFEST).read_bytes()]


def manifest_reader(folder: Path) -> Read:
    from alphanet_zoo.zoo.local import published_folder

    def read(path: Path) -> object:
        path.replace(folder / "saved" / "manifest.json")
        model = published_folder(folder / "saved")
        assert model is not None
        return model.check()

    return read


def recipe_seeds(folder: Path) -> list[bytes]:
    from alphanet_zoo.recipes import recipe_text, shipped_recipes

    return [recipe_text(name).encode() for name in shipped_recipes()]


def recipe_reader(folder: Path) -> Read:
    from alphanet_zoo.train.config import load_config

    return lambda path: load_config(str(path)).to_yaml()


def arch_seeds(folder: Path) -> list[bytes]:
    from alphanet_zoo.space.presets import ALPHANET_TINY, IMAGENET_FAMILY

    tiny = ALPHANET_TINY.largest.to_dict()
    described = {"arch": tiny, "space": ALPHANET_TINY.to_dict(), "num_classes": 10}
    return [json.dumps(each).encode() for each in (tiny, described, IMAGENET_FAMILY[0].arch.to_dict())]


def arch_reader(folder: Path) -> Read:
    from alphanet_zoo.space.cost import count_macs
    from alphanet_zoo.zoo.archs import find_arch

    def read(path: Path) -> object:
        found = find_arch(path)
        if found.space is not None:
            found.space.validate(found.arch)
            return count_macs(found.arch, found.space, 10)  # type: ignore[arg-type]
        return None

    return read


def front_seeds(folder: Path) -> list[bytes]:
    from alphanet_zoo.search.front import write_front
    from alphanet_zoo.space.presets import ALPHANET_TINY

    archs = (ALPHANET_TINY.smallest, ALPHANET_TINY.largest)
    entries = [
        {"arch": arch.to_dict(), "macs": 1000 + i, "params": 500 + i, "latency_ms": 1.5 + i, "score": 0.5 + i / 10,
         "accuracy": 0.5 + i / 10, "interval": [0.4, 0.8], "correct": 5, "images": 10, "front": True}
        for i, arch in enumerate(archs)
    ]  # fmt: skip
    for name in ("front.json", "front.csv"):
        write_front(folder / name, entries, {"supernet": "x"})
    return [(folder / name).read_bytes() for name in ("front.json", "front.csv")]


def front_reader(folder: Path) -> Read:
    from alphanet_zoo.zoo.archs import find_arch, read_front
    from alphanet_zoo.zoo.fronts import pick

    def read(path: Path) -> object:
        if not path.read_bytes().lstrip().startswith((b"{", b"[")):
            path = path.replace(path.with_suffix(".csv"))
        front = read_front(path)
        if front is None:
            return None
        find_arch(f"{path}#1")
        return pick(front, {"macs": 1e9, "params": 1e9, "latency_ms": 1e9}, str(path))

    return read


def device_seeds(folder: Path) -> list[bytes]:
    from alphanet_zoo.search.device import LatencyErrors, LatencyModel, distinct_parts
    from alphanet_zoo.space.presets import ALPHANET_TINY

    times = {part.key: 0.25 for part in distinct_parts(ALPHANET_TINY, 10)}
    model = LatencyModel({"cpu": "x", "threads": 1}, ALPHANET_TINY.name, 10, times, 1.0, 0.1, 0.2,
                         LatencyErrors(5, 1.0, 2.0, 0.9))  # fmt: skip
    model.write(folder / "device.json")
    return [(folder / "device.json").read_bytes()]


def device_reader(folder: Path) -> Read:
    from alphanet_zoo.search.device import LatencyModel
    from alphanet_zoo.space.presets import ALPHANET_TINY

    def read(path: Path) -> object:
        return LatencyModel.read(path).costs(ALPHANET_TINY, 10)

    return read


def onnx_seeds(folder: Path) -> list[bytes]:
    from alphanet_export.freeze import freeze
    from alphanet_export.write import write_export

    write_export(freeze(static_net(folder)), onnx=folder / "net.onnx", verify=False)
    return [(folder / "net.onnx").read_bytes()]


def onnx_reader(folder: Path) -> Read:
    from alphanet_export.metadata import open_exported

    return open_exported


def pickle_seeds(folder: Path) -> list[bytes]:
    import torch

    tensors = OrderedDict((f"module.{name}.weight", torch.ones(3, 2)) for name in "abc")
    content = {"state_dict": tensors, "epoch": 3, "args": {"lr": 0.1}}
    seeds = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(buffer.getvalue())
    return seeds


def pickle_reader(folder: Path) -> Read:
    """What the child process does with a checkpoint, and what the package then does with its answer."""
    from alphanet_zoo.tensor_file import read_tensor_file
    from alphanet_zoo.unpickle import answer, check_answer

    def read(path: Path) -> object:
        target = folder / "tensors.safetensors"
        target.unlink(missing_ok=True)
        keys = ["state_dict"]
        request = {"source": str(path), "target": str(target), "keys": keys, "bare": False, "foreign": "a.Config"}
        check_answer(path.name, json.loads(json.dumps(answer(request))), keys)
        return read_tensor_file(target)

    return read


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        share: Its share of the cases.
        ending: The ending of its files.
        mutate: Makes a case.
        seeds: Makes its valid files in a folder.
        reader: Returns the function that reads a file; it may use the folder.
        errors: What it may raise.
        limited: Whether the package reads such files in a process with limits on time and memory.
    """

    share: int
    ending: str
    mutate: Mutate
    seeds: Callable[[Path], list[bytes]]
    reader: Callable[[Path], Read]
    errors: tuple[type[Exception], ...] = (AlphaNetError,)
    limited: bool = False


TARGETS = {
    "arch": Target(20, ".json", mutated_json, arch_seeds, arch_reader, (AlphaNetError, ValueError)),
    "front": Target(20, ".json", mutated_table, front_seeds, front_reader, (AlphaNetError, ValueError)),
    "device": Target(15, ".json", mutated_json, device_seeds, device_reader),
    "manifest": Target(15, ".json", mutated_json, manifest_seeds, manifest_reader),
    "recipe": Target(8, ".yaml", mutated_yaml, recipe_seeds, recipe_reader),
    "weights": Target(12, ".safetensors", mutated_tensors, weights_seeds, weights_reader),
    "config": Target(6, ".json", mutated_json, config_seeds, config_reader),
    "onnx": Target(2, ".onnx", mutated_onnx, onnx_seeds, onnx_reader),
    "checkpoint": Target(2, ".pth.tar", mutated_bytes, pickle_seeds, pickle_reader, limited=True),
}
"""The readers by name. A file without an arch is a plain ValueError, as every value outside its domain."""
