"""Checks for the optional packages and programs that an export requires, before it starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from alphanet_zoo.errors import MissingDependencyError, MissingProgramError


def require_package(package: str, extra: str) -> None:
    """Checks that ``package`` can be imported, without importing it.

    Raises:
        MissingDependencyError: It cannot be imported; the message has the pip command that installs ``extra``.
    """
    if sys.modules.get(package, "") is None or importlib.util.find_spec(package) is None:
        raise MissingDependencyError(package, extra)


def require_compiler() -> None:
    """Checks that the C++ compiler of TorchInductor is installed: ``$CXX``, or the default of the system.

    Raises:
        MissingProgramError: It is not installed.
    """
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise MissingProgramError(
            f"the C++ compiler {compiler} is not installed, which torch.compile and AOTInductor require; install it "
            "(Debian: apt install g++), or set the environment variable CXX to an installed one"
        )
