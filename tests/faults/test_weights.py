"""F25: weights files that are not what was saved are refused, and nothing that is not finite is saved."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.tensor_file import HEADER_LIMIT
from alphanet_zoo.zoo.files import load_net, read_config, save_net

Header = dict[str, Any]
Parts = tuple[Header, bytes]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small supernet; read only."""
    path = tmp_path_factory.mktemp("saved") / "net.safetensors"
    save_net(fill_live(build_supernet(ALPHANET_TINY, 10), seed=1), path)
    return path


def parts_of(path: Path) -> Parts:
    """Header and tensors of a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Header | str, body: bytes) -> bytes:
    """The file of a header and tensors."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def floats(header: Header) -> list[str]:
    """Names of the float tensors."""
    return [name for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"]


def start(header: Header, name: str) -> int:
    """Offset of a tensor."""
    begin: int = header[name]["data_offsets"][0]
    return begin


def replaced(body: bytes, at: int, by: bytes) -> bytes:
    """Bytes with a part replaced."""
    return body[:at] + by + body[at + len(by) :]


def with_value(value: float, ending: str = "conv_stem.weight") -> Callable[[Header, bytes], bytes]:
    """One value of a tensor is another one."""

    def change(header: Header, body: bytes) -> bytes:
        name = next(name for name in floats(header) if name.endswith(ending))
        return joined(header, replaced(body, start(header, name), struct.pack("<f", value)))

    return change


def flipped(header: Header, body: bytes) -> bytes:
    place = start(header, floats(header)[0])
    return joined(header, replaced(body, place, bytes([body[place] ^ 1])))


def zeroed(header: Header, body: bytes) -> bytes:
    begin, end = header[floats(header)[0]]["data_offsets"]
    return joined(header, replaced(body, begin, bytes(end - begin)))


def swapped(header: Header, body: bytes) -> bytes:
    names = [name for name in floats(header) if name.endswith("weight")]
    a, b = next((a, b) for a in names for b in names if a < b and header[a]["shape"] == header[b]["shape"])
    header[a], header[b] = header[b], header[a]
    return joined(header, body)


def duplicated(header: Header, body: bytes) -> bytes:
    name, text = floats(header)[0], json.dumps(header)
    return joined(f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}", body)


def huge_header(header: Header, body: bytes) -> bytes:
    return joined(header | {"__metadata__": {"x": "x" * HEADER_LIMIT}}, body)


def deep_header(header: Header, body: bytes) -> bytes:
    return joined('{"a":' * 100_000 + "1" + "}" * 100_000, body)


def long_header(header: Header, body: bytes) -> bytes:
    return struct.pack("<Q", 2**62) + joined(header, body)[8:]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_value(float("nan")), "conv_stem.weight has values that are not finite"),
        (with_value(float("inf")), "conv_stem.weight has values that are not finite"),
        (with_value(-1.0, "running_var"), "running_var has negative values"),
        (flipped, "have changed since they were saved"),
        (zeroed, "have changed since they were saved"),
        (swapped, "have changed since they were saved"),
        (duplicated, "duplicate key"),
        (huge_header, f"at most {HEADER_LIMIT:,} are accepted"),
        (deep_header, "its header is not valid"),
        (long_header, "it is shorter than its header states"),
        (lambda header, body: joined(header, body + b"\0" * 8), "its size is not the one in its header"),
    ],
)
def test_a_changed_weights_file_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[Header, bytes], bytes], told: str
) -> None:
    path = tmp_path / "changed.safetensors"
    path.write_bytes(change(*parts_of(saved)))
    with pytest.raises(AlphaNetError, match=told) as caught:
        load_net(path)
    assert caught.value.exit_code == 1 and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_single_bit_flip_of_a_tensor_is_found(saved: Path, tmp_path: Path) -> None:
    header, body = parts_of(saved)
    draw = torch.Generator().manual_seed(0)
    for place in torch.randint(8 * len(body), (100,), generator=draw).tolist():
        changed = bytearray(body)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "flipped.safetensors").write_bytes(joined(header, bytes(changed)))
        with pytest.raises(AlphaNetError):
            load_net(tmp_path / "flipped.safetensors")


def test_a_file_without_the_digest_of_older_versions_loads(saved: Path, tmp_path: Path) -> None:
    header, body = parts_of(saved)
    config = json.loads(header["__metadata__"]["alphanet"])
    assert len(config.pop("tensors_sha256")) == 64 and "tensors_sha256" not in read_config(saved)
    header["__metadata__"] = {"alphanet": json.dumps(config)}
    (tmp_path / "old.safetensors").write_bytes(joined(header, body))
    assert load_net(tmp_path / "old.safetensors").supernet


def test_nothing_that_is_not_finite_is_saved(tmp_path: Path) -> None:
    net = build_supernet(ALPHANET_TINY, 10)
    with torch.no_grad():
        net.conv_head.weight[0, 0] = float("nan")
    with pytest.raises(AlphaNetError, match=r"conv_head\.weight has values that are not finite"):
        save_net(net, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("depth", 20_000), ("depth", 10**8), ("width", 10**15), ("kernel_size", 10**6 + 1), ("expand_ratio", 10**9),
        ("num_classes", 2**62), ("in_chans", 2**40), ("stages", 10**4),
    ],
)  # fmt: skip
def test_sizes_are_bounded_before_a_network_is_built(saved: Path, tmp_path: Path, entry: str, value: int) -> None:
    header, body = parts_of(saved)
    config = json.loads(header["__metadata__"]["alphanet"])
    stages = config["space"]["stages"]
    if entry == "stages":
        config["space"]["stages"] = stages * (value // len(stages))
    elif entry in stages[-1]:
        stages[-1][entry] = [value]
        config["arch"][entry][-2 if entry == "width" else -1] = value
    else:
        config[entry] = value
    header["__metadata__"] = {"alphanet": json.dumps(config)}
    (tmp_path / "vast.safetensors").write_bytes(joined(header, body))
    with pytest.raises(AlphaNetError, match="does not describe a network"):
        load_net(tmp_path / "vast.safetensors")
