"""What an export needs beside our own dependencies, asked for before the work begins."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from alphanet_zoo.errors import MissingDependencyError, MissingProgramError


def require_package(package: str, extra: str) -> None:
    """Checks that ``package`` can be imported, without importing it.

    Raises:
        MissingDependencyError: It cannot; the message has the pip line of our ``extra``.
    """
    if sys.modules.get(package, "") is None or importlib.util.find_spec(package) is None:
        raise MissingDependencyError(package, extra)


def require_compiler() -> None:
    """Checks that the C++ compiler which torch's inductor calls is there: ``$CXX``, or the system's usual one.

    Raises:
        MissingProgramError: It is not.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise MissingProgramError(
            f"the C++ compiler {compiler} is not installed, which torch.compile and AOTInductor need; add it with "
            "your system's packages (Debian: apt install g++), or name one that is there in the variable CXX"
        )
