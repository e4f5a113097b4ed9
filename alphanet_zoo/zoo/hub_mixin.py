"""Methods of a network class that packages after `alphanet_zoo.nn` implement; these are imported when they are called.

They are the methods of ``huggingface_hub.PyTorchModelHubMixin``, and ``export``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from alphanet_export.export import ExportResult
    from alphanet_zoo.nn.family import Network


class HubMixin:
    """Adds to the networks the methods of ``huggingface_hub.PyTorchModelHubMixin``, and ``export``."""

    def export(self, output: str | os.PathLike[str] | None = None, **options: Any) -> ExportResult:
        """Writes the network to files for deployment; see `alphanet_export.export.export`.

        For example ``net.export("model.onnx")``, or ``supernet.export("model.onnx", arch=arch, calibration="train/")``.
        """
        from alphanet_export import export

        return export.export(cast("Network", self), output, **options)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> str | None:
        """Writes ``config.json``, ``model.safetensors`` and a card; see `alphanet_zoo.zoo.hub.save_pretrained`."""
        from alphanet_zoo.zoo import hub

        return hub.save_pretrained(cast("Network", self), save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Loads a Hub repository or a folder; see `alphanet_zoo.zoo.hub.from_pretrained`.

        Raises:
            UsageError: It contains a network of another class.
        """
        from alphanet_zoo.errors import UsageError
        from alphanet_zoo.zoo import hub

        net = hub.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if not isinstance(net, cls):
            raise UsageError(
                f"{os.fspath(pretrained_model_name_or_path)} contains a {type(net).__name__}, not a {cls.__name__}; "
                "call alphanet_zoo.from_pretrained, which loads both"
            )
        return net

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the files of `save_pretrained`; see `alphanet_zoo.zoo.hub.push_to_hub`."""
        from alphanet_zoo.zoo import hub

        return hub.push_to_hub(cast("Network", self), repo_id, **kwargs)
