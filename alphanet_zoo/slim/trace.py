"""Runs a network once and records the labels of every tensor. `labels` describes labels, `rules` the operators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alphanet_zoo.errors import UsageError
from alphanet_zoo.slim.call import Call, Product, flat
from alphanet_zoo.slim.labels import Conflict, Labelling, Labellings, Labels
from alphanet_zoo.slim.rules import rule_of

BATCH = 2
"""Images in a traced batch; batch norm requires two in training."""

_READS_VALUES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item")


@dataclass(frozen=True, eq=False)
class Event:
    """An output of an operator.

    Attributes:
        operator: Its name.
        module: Name of the module that ran it.
        shape: Shape of the output.
        labellings: Its labellings.
        inputs: The labellings of the operator's inputs.
    """

    operator: str
    module: str
    shape: tuple[int, ...]
    labellings: Labellings
    inputs: Labellings


@dataclass(eq=False)
class Trace:
    """What one run recorded.

    Attributes:
        events: Outputs of all operators, in order.
        products: Multiply-accumulates.
        first: Order in which parameters and buffers were first used, by ``id``.
        outputs: Labellings of the output of each module that returned a tensor, with its shape.
        residual: Modules that add their input to their output: names, in order.
        ordered: Labels of channels whose order matters.
        norm_weights: Names of weights of batch norms.
        result: The output of the network.
    """

    events: list[Event] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    outputs: dict[str, tuple[tuple[int, ...], Labellings]] = field(default_factory=dict)
    inputs: dict[str, tuple[tuple[int, ...], Labellings]] = field(default_factory=dict)
    residual: dict[str, None] = field(default_factory=dict)
    ordered: list[Labelling] = field(default_factory=list)
    norm_weights: set[int] = field(default_factory=set)
    result: Any = None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of every operator that runs.

    Args:
        labels: The labels of the network.
        tensors: The network's parameters and buffers with their labellings.
        observe: Called with each event.
    """

    def __init__(
        self, labels: Labels, tensors: list[tuple[Tensor, Labellings]], observe: Callable[[Event], None] | None
    ) -> None:
        """Nothing has run."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.observe = observe
        self.labels, self.trace = labels, Trace()
        self.known = {id(tensor): labellings for tensor, labellings in tensors}
        self.own = set(self.known)
        self.alive: list[Any] = [tensor for tensor, _ in tensors]
        self.free: set[int] = set()
        self.stack: list[tuple[str, Any]] = []
        self.last: list[Labelling] = []
        self.of_images: set[int] = set()

    @property
    def module(self) -> str:
        """Name of the running module."""
        return self.stack[-1][0] if self.stack else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and applies its rule."""
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        inputs = [t for value in (*args, *kwargs.values()) for t in flat(value)]
        if name in _READS_VALUES and any(id(t) in self.of_images for t in inputs):
            where = f"module {self.module}" if self.module else "the network itself"
            raise UsageError(
                f"{where} reads the value of a tensor ({name}), so its computation depends on the image; replace that "
                "branch"
            )
        self.last = [m for t in inputs for m in self.known.get(id(t), ())]
        out = func(*args, **kwargs)
        outputs = flat(out)
        self.labels.place = self.module or "the network itself"
        for tensor in inputs:
            if id(tensor) in self.own:
                self.trace.first.setdefault(id(tensor), len(self.trace.first))
        depends = any(id(t) in self.of_images for t in inputs)
        self.of_images.update(id(t) for t in outputs if depends)
        parameters = zip(func._schema.arguments, args, strict=False)
        arguments = {argument.name: value for argument, value in parameters} | kwargs
        for argument in func._schema.arguments:
            arguments.setdefault(argument.name, argument.default_value)
        call = Call(
            name, arguments, outputs, self.labels, self.known, self.free, self.module, self.trace.products,
            BATCH if depends or (inputs and inputs[0].shape[:1] == (BATCH,)) else 1,
            self.trace.ordered,
        )  # fmt: skip
        found = rule_of(name, torch.Tag.pointwise in func.tags)(call)
        inputs_before = list(self.last)
        for tensor, labellings in zip(outputs, found, strict=True):
            self.known[id(tensor)] = self.labels.canonical(labellings)
            self.alive.append(tensor)
            event = Event(name, self.module, tuple(tensor.shape), self.known[id(tensor)], inputs_before)
            self.trace.events.append(event)
            if self.observe is not None:
                self.observe(event)
        if name in ("add", "add_"):
            self._note_residual(inputs)
        if "batch_norm" in name:
            weight = arguments.get("weight")
            self.trace.norm_weights.update([id(weight)] if id(weight) in self.own else [])
        return out

    def _note_residual(self, operands: list[Tensor]) -> None:
        """Notes the innermost module whose input is an operand of an addition."""
        for name, entering in reversed(self.stack):
            if any(operand is entering for operand in operands):
                self.trace.residual.setdefault(name)
                return

    def enter(self, name: str, args: Any) -> None:
        """A module begins."""
        entering = args[0] if args and isinstance(args[0], Tensor) else None
        self.stack.append((name, entering))
        if entering is not None:
            self.trace.inputs.setdefault(name, (tuple(entering.shape), self.known.get(id(entering), [])))

    def leave(self, name: str, out: Any) -> None:
        """A module has returned."""
        self.stack.pop()
        if isinstance(out, Tensor):
            self.trace.outputs[name] = (tuple(out.shape), self.known.get(id(out), []))


@contextlib.contextmanager
def _watched(net: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tells the recorder which module is running."""
    handles = []
    for name, module in net.named_modules():
        enter = lambda _, args, name=name: recorder.enter(name, args)  # noqa: E731
        leave = lambda _, args, out, name=name: recorder.leave(name, out)  # noqa: E731
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating-point buffers by name."""
    named = (*net.named_parameters(), *net.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def trace(
    net: nn.Module,
    images: Tensor,
    labels: Labels,
    tensors: Mapping[str, list[Labelling]],
    observe: Callable[[Event], None] | None = None,
) -> Trace:
    """Runs ``net`` on ``images`` in the mode it is in; no gradients.

    Args:
        net: The network. Its running statistics must not be updated in training (``track_running_stats``).
        images: ``(BATCH, C, H, W)``.
        labels: The labels; the run equates them.
        tensors: Labels along each dimension of each tensor of `tensors_of`; empty for a dimension of length 1.
        observe: Called with each event; may raise `Conflict`.

    Raises:
        Conflict: ``labels`` are `FixedLabels`, and the network does not fit them or fails.
        UsageError: The computation depends on the values in a tensor.
    """
    named = tensors_of(net)
    known = [
        (tensor, [m.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
                  for dim, m in enumerate(tensors[name]) if m.size])
        for name, tensor in named.items()
    ]  # fmt: skip
    recorder = _Recorder(labels, known, observe)
    recorder.of_images.add(id(images))
    with torch.no_grad(), _watched(net, recorder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            with recorder:
                recorder.trace.result = net(images)
        except Conflict as conflict:
            conflict.module = recorder.module
            raise
        except UsageError:
            raise
        except Exception as error:
            where = recorder.module or "the network itself"
            text = " ".join(str(error).split())
            raise Failure(f"{type(error).__name__} in {where}: {text}"[:300], recorder.last, recorder.module) from error
    for tensor in flat(recorder.trace.result):
        labels.place = ""
        for labelling in recorder.known.get(id(tensor), ()):
            labels.freeze(labelling, "the outputs of the network")
    return recorder.trace


class Failure(Conflict):
    """The network raised an exception; ``labels`` are those of the inputs of the last operator."""
