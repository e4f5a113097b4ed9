"""The origin of a net's batch-norm statistics and label names, kept with its tensors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alphanet_zoo.nn.config import Calibration, as_calibration

_KEY = "alphanet"
"""Entry of a state dict's metadata. Keys and tensors of the state dict are those of any other module."""

_COUNTER = "num_batches_tracked"


class Provenance(nn.Module):
    """A net that records where its running statistics and label names come from.

    The record of the statistics names the number of batches that the batch norms had tracked when it was made. If that
    number has changed since, something else has set the statistics: training, or an average over a net in training.

    ``state_dict()`` carries the record and the label names in its metadata, where torch keeps the versions of modules.
    Its keys are those of any module, and ``load_state_dict``, ``torch.save`` and ``copy.deepcopy`` keep the metadata. A
    plain dict of tensors has none. After loading one, `calibration` is 'training' if batches were tracked and None
    otherwise, and the label names are unset if it has a classifier. A net on the meta device keeps both, because they
    describe the tensors that are loaded next.

    Attributes:
        supernet: Whether the net is a supernet, which tracks no statistics.
        pretrained_cfg: See `alphanet_zoo.nn.model.AlphaNet`; holds ``label_names``.
    """

    supernet: bool
    pretrained_cfg: dict[str, Any]
    _record: tuple[Calibration, int | None] = (None, None)
    _checked = False

    @property
    def calibration(self) -> Calibration:
        """Where the running statistics come from; see `alphanet_zoo.nn.config.Calibration`.

        An assigned value describes the statistics as they are now.
        """
        record, recorded = self._record
        tracked = None if self.supernet else _sum(b for name, b in self.named_buffers() if name.endswith(_COUNTER))
        if tracked is None or tracked == (recorded or 0) or (recorded is None and record is not None):
            return record
        return "training" if tracked else None

    @calibration.setter
    def calibration(self, value: Calibration) -> None:
        counters = (buffer for name, buffer in self.named_buffers() if name.endswith(_COUNTER))
        self._record, self._checked = (value, _sum(counters)), False

    def warn_if_unset(self) -> None:
        """Warns once if the running statistics are not set."""
        if self._checked or self._record[0] is not None or torch.compiler.is_compiling():
            return
        self._checked = True
        if self.calibration is None:
            warnings.warn(
                "Batch-norm statistics are not set, so outputs are meaningless. Call calibrate(net, batches).",
                stacklevel=5,
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Adds the provenance to the metadata of this module."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        names = self.pretrained_cfg.get("label_names")
        entry = {"calibration": copy.copy(self.calibration), "label_names": list(names) if names else None}
        if hasattr(destination, "_metadata"):
            destination._metadata.setdefault(prefix[:-1], {})[_KEY] = entry

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any
    ) -> None:
        """Takes the provenance of the tensors that are loaded."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        entry, waits = local_metadata.get(_KEY), any(parameter.is_meta for parameter in self.parameters())
        own = [name for name in state_dict if name.startswith(prefix)]
        if any(name.endswith("running_mean") for name in own):
            tracked = _sum(state_dict[name] for name in own if name.endswith(_COUNTER))
            found: Calibration = "training" if tracked and not self.supernet else None
            calibration = self._record[0] if waits else found
            self._record = (calibration if entry is None else as_calibration(entry["calibration"])), tracked
            self._checked = False
        if any(name.startswith(f"{prefix}classifier.") for name in own) and not (entry is None and waits):
            names = entry["label_names"] if entry else None
            self.pretrained_cfg["label_names"] = tuple(names) if names else None


def _sum(counters: Any) -> int | None:
    """The sum of some integer tensors; None if there are none, or if they are on the meta device."""
    found: list[Tensor] = list(counters)
    if not found or any(counter.is_meta for counter in found):
        return None
    return int(torch.stack([counter.detach().cpu() for counter in found]).sum())
