"""The package as it is installed: public names, lazy imports, a wheel that is whole."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import alphanet_zoo as az

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there() -> None:
    for name in az.__all__:
        assert getattr(az, name) is not None
    assert set(az.__all__) <= set(dir(az))
    with pytest.raises(AttributeError, match="no attribute 'Alphanet'"):
        az.Alphanet  # noqa: B018


def run_python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_and_its_space_loads_no_torch() -> None:
    heavy = "torch torchvision onnx onnxruntime pydantic yaml PIL huggingface_hub safetensors"
    run_python(
        "import sys, alphanet_zoo, pkgutil, importlib\n"
        "assert 'numpy' not in sys.modules\n"
        "import alphanet_zoo.space as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'alphanet_zoo.space.{module.name}')\n"
        "alphanet_zoo.count_macs(alphanet_zoo.ALPHANET.largest)\n"
        f"assert not [name for name in '{heavy}'.split() if name in sys.modules]\n"
    )


def test_importtime_shows_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import alphanet_zoo.space.sampling, alphanet_zoo.space.cost"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    imported = [line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()]
    assert "alphanet_zoo.space.cost" in imported
    assert not [name for name in imported if name.split(".")[0] == "torch"]


def test_no_file_names_a_package_index() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    words = ["py" + "pi.", "--index" + "-url", "--extra-index" + "-url", "files.python" + "hosted"]
    for name in filter(None, tracked.stdout.split("\0")):
        content = (ROOT / name).read_bytes()
        assert not [word for word in words if word.encode() in content], name


@pytest.mark.slow
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    sources = [p for folder in ("alphanet_zoo", "export/alphanet_export") for p in (ROOT / folder).rglob("*.py")]
    for path in sources:
        assert str(path.relative_to(ROOT)).removeprefix("export/") in names
    assert {"alphanet_zoo/py.typed", "alphanet_export/py.typed", "alphanet_zoo/recipes/digits.yaml"} <= names
    for templates in ("alphanet_export/templates", "alphanet_export/verify/templates"):
        assert {f"{templates}/{path.name}" for path in (ROOT / "export" / templates).iterdir()} <= names
    assert {"alphanet_zoo/nn/cpu_kernels/loops.cpp", "alphanet_export/writers/web/index.html"} <= names
    assert "alphanet = alphanet_zoo.cli.main:main" in entry_points
    for command in ("train", "search", "export", "verify", "convert"):
        assert f"alphanet-{command} = alphanet_zoo.cli.{command}:main" in entry_points
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
