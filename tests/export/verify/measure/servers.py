"""Real inference servers, each in an environment of its own."""

import subprocess
import sys
import time
from pathlib import Path

from alphanet_export.verify.measure.kserve import KServeClient
from alphanet_zoo.errors import AlphaNetError


def python_with(packages: list[str], folder: Path) -> Path:
    """The Python of a new environment in ``folder``."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=200)
    python = folder / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return python


def wait_until_ready(url: str, models: list[str], process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the server says that it is ready, and, which may be later, has all models."""
    deadline = time.monotonic() + 200
    while True:
        try:
            KServeClient(url).check_ready()
            for name in models:
                KServeClient(url).model_facts(name)
            return
        except AlphaNetError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
