"""Measured figures as frozen values, and how they are shown.

The constants here are plain data: the commands check their options with them before anything heavy is imported.
"""

PAGE_ENDINGS = (".html", ".htm", ".md", ".json")
"""File name endings that a report or a comparison table can be written to."""

NETS = ("pytorch", "pytorch-compiled")
"""Runtimes of the comparison table that run the network itself; the others run its ONNX file or a conversion of it."""
RUNTIMES = (*NETS, "onnxruntime", "openvino", "executorch")
"""Runtimes that the comparison table can measure, see `alphanet_export.runtimes`."""
DEFAULT_RUNTIMES = ("pytorch", "onnxruntime")
"""Runtimes that the comparison table measures by default."""
