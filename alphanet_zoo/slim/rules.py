"""How each ATen operator relates the channel labels of its inputs and outputs.

A rule is a function ``(call) -> labellings of the outputs``. It equates labels, or fixes those that the operator mixes
in a way that no smaller network could repeat. `labels` describes labellings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from alphanet_zoo.slim.call import Call, flat
from alphanet_zoo.slim.labels import Labelling, Labellings, aligned, along, varying

Rule = Callable[[Call], list[Labellings]]


def _combine(call: Call, inputs: Sequence[tuple[Sequence[int], Labellings]], shape: Sequence[int]) -> Labellings:
    """Labellings of a tensor that is computed from others element by element, with broadcasting."""
    operands = [aligned(s, labellings, len(shape)) for s, labellings in inputs]
    result: dict[tuple[int, ...], Labelling] = {}
    for i, (_, labellings) in enumerate(operands):
        dims_of = [varying(labelling) for labelling in labellings]
        for labelling, dims in zip(labellings, dims_of, strict=True):
            for j, (other_shape, others) in enumerate(operands):
                if i == j or all(other_shape[dim] == 1 for dim in dims):
                    continue
                partners = [other for other in others if varying(other) == dims]
                if len(partners) == 1 and dims_of.count(dims) == 1:
                    call.labels.unify(labelling, partners[0], f"operator {call.name}")
                else:
                    call.labels.freeze(labelling, f"operator {call.name} with a tensor of fixed size")
            result.setdefault(dims, labelling)
    return list(result.values())


def pointwise(call: Call) -> list[Labellings]:
    """Operators that compute each element from the elements at the same place."""
    tensors = [t for t in call.tensors() if t.dim() and id(t) not in call.free]
    if len(tensors) == 1:
        same = [call.of(tensors[0]) if out.shape == tensors[0].shape else None for out in call.outputs]
        if None not in same:
            return [labellings for labellings in same if labellings is not None]
    inputs = [(tuple(t.shape), call.of(t)) for t in tensors]
    shape = call.outputs[0].shape if call.outputs else ()
    combined = _combine(call, inputs, shape)
    return [combined if out.shape == shape else [] for out in call.outputs]


def convolution(call: Call) -> list[Labellings]:
    """A convolution in one to three dimensions, dense, grouped or transposed."""
    x, weight, bias = (call.arguments[key] for key in ("input", "weight", "bias"))
    groups, transposed = call.arguments["groups"], call.arguments["transposed"]
    out, labels, reason = call.outputs[0], call.labels, f"convolution of {weight.shape[0]} channels"
    slides = _slides_over_channels(call, x, out)
    call.only(x, (1, *range(2, x.dim())) if slides else (1,))
    call.only(weight, (0, 1))
    entering, leaving = call.axis(x, 1), call.axis(weight, 0)
    across = call.axis(weight, 1)
    if groups == 1:
        if transposed:
            leaving, across = across, leaving
        labels.unify(entering, across, reason)
    elif transposed:
        labels.freeze(np.concatenate([entering, leaving, across]), "grouped transposed convolution")
        leaving = np.zeros(out.shape[1], dtype=np.int64)
    else:
        labels.freeze(across, reason)
        members = np.concatenate([entering.reshape(groups, -1), leaving.reshape(groups, -1)], axis=1)
        labels.unify(members, members[:, :1], reason)
    if bias is not None:
        labels.unify(call.axis(bias, 0), leaving, reason)
    found = [along(leaving, 1, out.dim())]
    slid = [labelling for labelling in call.of(x) if varying(labelling)[0] > 1]
    call.ordered += slid
    sides = (x if transposed else out).shape[2:]
    places = math.prod(() if slid else sides) * math.prod(weight.shape[2:]) * x.shape[0]
    if groups == 1:
        call.count(places, leaving, entering, *(labelling.ravel() for labelling in slid))
    else:
        call.count(places * weight.shape[1], entering if transposed else leaving)
    return [[*found, *slid]]


def _slides_over_channels(call: Call, x: Tensor, out: Tensor) -> bool:
    """Whether the kernel moves along a labelled dimension of one image, as in efficient channel attention."""
    same = x.shape[2:] == out.shape[2:] and all(s == 1 for s in call.arguments["stride"])
    return same and x.shape[1] == 1 and x.dim() == 3


def _matrix_product(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> list[Labellings]:
    """``a @ b`` of shapes ``(..., n, k)`` and ``(..., k, m)``."""
    labels, reason, out = call.labels, f"operator {call.name}", call.outputs[0]
    call.only(a, range(a.dim()))
    call.only(b, range(b.dim()))
    labels.unify(call.axis(a, -1), call.axis(b, -2), reason)
    found = []
    for dim in range(out.dim() - 2):
        labels.unify(call.axis(a, dim), call.axis(b, dim), reason)
        found.append(along(call.axis(a, dim), dim, out.dim()))
    rows, inner, columns = call.axis(a, -2), call.axis(a, -1), call.axis(b, -1)
    if bias is not None:
        call.only(bias, (-1,))
        labels.unify(call.axis(bias, -1), columns, reason)
    if sum(bool(labels.roots(factor).any()) for factor in (rows, inner, columns, *found)) > 2:
        labels.freeze(rows, "matrix product along several dimensions")
        for batch in found:
            labels.freeze(batch, "matrix product along several dimensions")
    call.count(1, *(batch.ravel() for batch in found), rows, inner, columns)
    return [[*found, along(rows, -2, out.dim()), along(columns, -1, out.dim())]]


def addmm(call: Call) -> list[Labellings]:
    """``bias + a @ b``."""
    names = ("batch1", "batch2") if "batch1" in call.arguments else ("mat1", "mat2")
    return _matrix_product(call, call.arguments[names[0]], call.arguments[names[1]], call.arguments["self"])


def mm(call: Call) -> list[Labellings]:
    """``a @ b``."""
    return _matrix_product(call, call.arguments["self"], call.arguments["mat2"])


def attention(call: Call) -> list[Labellings]:
    """Scaled dot-product attention: heads keep their size; two matrix products are counted."""
    query, key, value = (call.arguments[name] for name in ("query", "key", "value"))
    found = opaque(call)
    batch, heads, rows, width = query.shape
    call.count(batch * heads * rows * key.shape[2] * (width + value.shape[-1]))
    return found


def batch_norm(call: Call) -> list[Labellings]:
    """Batch norm in training and evaluation: one weight per channel."""
    x = next(value for value in call.arguments.values() if isinstance(value, Tensor))
    others = [t for t in call.tensors() if t is not x and t.dim() == 1]
    for tensor in others:
        call.labels.unify(call.axis(x, 1), call.axis(tensor, 0), "batch norm")
    statistics = [[call.axis(x, 1)] if out.shape == x.shape[1:2] else [] for out in call.outputs[1:]]
    return [call.of(x), *statistics]


def layer_norm(call: Call) -> list[Labellings]:
    """Layer norm: a weight per element of the last dimensions."""
    tensors = [call.arguments[key] for key in ("input", "weight", "bias") if call.arguments.get(key) is not None]
    return [
        _combine(call, [(tuple(t.shape), call.of(t)) for t in tensors], call.outputs[0].shape),
        *([] for _ in call.outputs[1:]),
    ]


def group_norm(call: Call) -> list[Labellings]:
    """Group norm: whole groups of channels are kept."""
    x, groups = call.arguments["input"], call.arguments["group"]
    call.only(x, (1,))
    for key in ("weight", "bias"):
        if call.arguments.get(key) is not None:
            call.labels.unify(call.axis(x, 1), call.axis(call.arguments[key], 0), "group norm")
    if groups == 1:
        return [call.of(x), *([] for _ in call.outputs[1:])]
    members = call.axis(x, 1).reshape(groups, -1)
    call.labels.unify(members, members[:, :1], "group norm")
    return [call.of(x), *([members[:, 0].reshape(1, -1)] for _ in call.outputs[1:])]


def reduction(call: Call) -> list[Labellings]:
    """Sums, means, norms and extremes over some dimensions."""
    x = call.arguments["self"]
    dims, keep = call.arguments.get("dim"), bool(call.arguments.get("keepdim", False))
    if dims is None or dims == []:
        return [[] for _ in call.outputs]
    removed = {dim % x.dim() for dim in (dims if isinstance(dims, list | tuple) else (dims,))}
    found = []
    for labelling in call.of(x):
        vary = set(varying(labelling))
        if vary & removed:
            if not vary <= removed:
                call.labels.freeze(labelling, f"operator {call.name}")
            continue
        found.append(labelling if keep else np.squeeze(labelling, tuple(removed)))
    return [found for _ in call.outputs]


def spatial(call: Call) -> list[Labellings]:
    """Pooling, resizing and padding of the last dimensions."""
    x = next(iter(call.tensors()))
    sides = next((int(digit) for digit in "123" if f"{digit}d" in call.name), 2)
    call.only(x, range(x.dim() - sides))
    return [call.of(x) for _ in call.outputs]


def constant_pad(call: Call) -> list[Labellings]:
    """Padding with a constant; padded channels are fixed."""
    x, pads = call.arguments["self"], call.arguments["pad"]
    found = []
    for labelling in call.of(x):
        for i in range(len(pads) // 2):
            dim, (before, after) = x.dim() - 1 - i, pads[2 * i : 2 * i + 2]
            if dim in varying(labelling):
                width = [(max(before, 0), max(after, 0)) if d == dim else (0, 0) for d in range(x.dim())]
                length = labelling.shape[dim]
                part = labelling.take(range(max(-before, 0), length - max(-after, 0)), dim)
                labelling = np.pad(part, width)
        found.append(labelling)
    return [found]


def movement(call: Call) -> list[Labellings]:
    """Operators that copy or rearrange elements of one tensor: the labels move as the elements do."""
    x = next(iter(call.tensors()))
    results: list[Labellings] = [[] for _ in call.outputs]
    arguments = {k: v for k, v in call.arguments.items() if not isinstance(v, Tensor)}
    for labelling in call.of(x):
        if call.name in ("t", "transpose", "permute", "unsqueeze"):
            results[0].append(getattr(torch.ops.aten, call.name)(torch.from_numpy(labelling), **arguments).numpy())
            continue
        full = torch.from_numpy(np.ascontiguousarray(np.broadcast_to(labelling, tuple(x.shape))))
        if call.name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
            moved = [full.reshape(call.outputs[0].shape)]
        else:
            moved = flat(getattr(torch.ops.aten, call.name)(full, **arguments))
        for result, tensor in zip(results, moved, strict=True):
            result.append(tensor.numpy())
    return results


def concatenation(call: Call) -> list[Labellings]:
    """``cat`` and ``stack``: channels of the operands beside one another."""
    tensors = [t for t in call.arguments["tensors"] if t.numel()]
    out, stack = call.outputs[0], call.name == "stack"
    dim = int(call.arguments.get("dim") or 0) % out.dim()
    operands = []
    for t in tensors:
        shape = [*t.shape[:dim], 1, *t.shape[dim:]] if stack else list(t.shape)
        operands.append((shape, [np.expand_dims(m, dim) if stack else m for m in call.of(t)]))
    across = [(s, [m for m in ms if dim not in varying(m)]) for s, ms in operands]
    others = [([1 if d == dim else n for d, n in enumerate(s)], ms) for s, ms in across]
    found = _combine(call, others, [1 if d == dim else n for d, n in enumerate(out.shape)])
    beside = [[m for m in ms if dim in varying(m)] for _, ms in operands]
    if not any(beside):
        return [found]
    shape = [1] * out.dim()
    for labelling in (m for ms in beside for m in ms):
        shape = [max(a, b) if d != dim else 1 for d, (a, b) in enumerate(zip(shape, labelling.shape, strict=True))]
    parts = []
    for (size, _), ms in zip(operands, beside, strict=True):
        for extra in ms[1:]:
            call.labels.freeze(extra, f"operator {call.name}")
        target = [size[d] if d == dim else n for d, n in enumerate(shape)]
        parts.append(np.broadcast_to(ms[0] if ms else np.zeros((), dtype=np.int64), target))
    return [[*found, np.concatenate(parts, axis=dim)]]


def same(call: Call) -> list[Labellings]:
    """Operators whose outputs have the labels of their first input."""
    x = next(iter(call.tensors()))
    return [call.of(x) if out.shape == x.shape else [] for out in call.outputs]


def constant(call: Call) -> list[Labellings]:
    """Tensors filled with constants or random numbers."""
    call.free.update(id(out) for out in call.outputs)
    return [[] for _ in call.outputs]


def opaque(call: Call) -> list[Labellings]:
    """Every other operator: its inputs keep their size."""
    for tensor in call.tensors():
        for labelling in call.of(tensor):
            call.labels.freeze(labelling, f"operator {call.name}")
    return [[] for _ in call.outputs]


_RULES: dict[Rule, str] = {
    convolution: "convolution",
    addmm: "addmm baddbmm",
    mm: "mm bmm",
    batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_with_update _batch_norm_no_update",
    layer_norm: "native_layer_norm _fused_rms_norm",
    group_norm: "native_group_norm",
    reduction: "mean sum var std var_mean amax amin linalg_vector_norm norm logsumexp any all prod",
    constant_pad: "constant_pad_nd",
    movement: "view _unsafe_view reshape _reshape_alias permute t transpose unsqueeze squeeze expand select slice "
    "split split_with_sizes unbind flip roll repeat pixel_shuffle pixel_unshuffle channel_shuffle "
    "native_channel_shuffle",
    concatenation: "cat stack",
    same: "alias detach clone _to_copy lift_fresh contiguous dropout native_dropout bernoulli_ _softmax _log_softmax "
    "empty_like zeros_like ones_like full_like rand_like randn_like as_strided_ resize_ fill_ zero_",
    constant: "zeros ones full empty rand randn new_zeros new_ones new_full new_empty scalar_tensor",
    # PyTorch tags most of these operators as pointwise. The tag of these is missing, in some or in all versions.
    pointwise: "copy_ hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ mish mish_ celu celu_ elu elu_ "
    "selu selu_ leaky_relu leaky_relu_ prelu _prelu_kernel _conj_physical glu_ rsub where",
    attention: "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_attention_math",
}
_BY_NAME = {name: rule for rule, names in _RULES.items() for name in names.split()}
_SPATIAL = ("avg_pool", "max_pool", "_adaptive_avg_pool", "adaptive_", "upsample_", "_upsample", "reflection_pad",
            "replication_pad")  # fmt: skip


def rule_of(name: str, pointwise_tag: bool) -> Rule:
    """The rule of an operator."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith(_SPATIAL):
        return spatial
    return pointwise if pointwise_tag else opaque
