"""The package imports and stores its files on Windows, as far as that can be tested on Linux (`tests/windows.py`)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import check_writable

ROOT = Path(__file__).parents[1]
PACKAGES = {"alphanet_zoo": ROOT / "alphanet_zoo", "alphanet_export": ROOT / "export" / "alphanet_export"}
if sys.platform == "win32":
    pytest.skip("pretends to be Windows on another system", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tests"))
import windows  # noqa: E402

GUARDED = {
    "export/alphanet_export/verify/environment.py": {"sched_getaffinity"},
    "alphanet_zoo/locks.py": {"register_at_fork"},
    "alphanet_zoo/data/batches.py": {"pthread_sigmask", "SIG_BLOCK", "SIG_SETMASK", "SIG_UNBLOCK"},
}
"""POSIX-only attributes of `os` and `signal` that a module uses after testing for them with `hasattr`."""
FILES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
MODULES = sorted(
    ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
    for package, folder in PACKAGES.items()
    for path in folder.rglob("*.py")
    if path.stem != "__main__"
)

USE = """
from pathlib import Path
import pytest, torch
from alphanet_zoo.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import replacing, replacing_folder
from alphanet_zoo.locks import locked_file
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.folder import locked
from alphanet_zoo.train.loop import collected_signals
from alphanet_zoo.train.runlog import RunLog, peak_memory
from alphanet_zoo.zoo.files import load_net, save_net
import alphanet_zoo.locks as locks
import alphanet_zoo.train.runlog as runlog

assert locks.fcntl is None and runlog.resource is None

work = Path(sys.argv[1])
torch.manual_seed(0)
net = AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY)
for _ in range(2):  # The second time replaces the file.
    save_net(net, work / "net.safetensors")
loaded = load_net(work / "net.safetensors").state_dict()
assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())

for value in (1.0, 2.0):  # The second checkpoint replaces the first.
    save_checkpoint(work / "checkpoints", Checkpoint(3, {"x": torch.full((2,), value)}, {"epoch": 1}), keep=2)
assert latest_checkpoint(work / "checkpoints").tensors["x"].tolist() == [2.0, 2.0]

for text in ("old", "new"):
    with replacing_folder(work / "folder") as folder, replacing(folder / "file") as file:
        file.write_text(text)
assert (work / "folder" / "file").read_text() == "new"

run = work / "run"
ranks = Ranks(0, 1, torch.device("cpu"))
with locked(run, ranks):
    with pytest.raises(UsageError, match="another process is training"):
        with locked(run, ranks):
            pass
    (run / "kept").touch()
with locked(run, ranks):
    pass
assert [path.name for path in run.iterdir()] == ["kept"]
with locked(work / "empty", ranks):
    pass
assert not (work / "empty").exists()
with locked_file(work / "lock", wait=True), pytest.raises(BlockingIOError):
    with locked_file(work / "lock", wait=False):
        pass

assert peak_memory(torch.device("cpu")) is None
with RunLog(run, start=0, tensorboard=True) as log:
    log.write({"step": 1, "lr": 0.1, "memory_mib": None})
with RunLog(run, start=0, tensorboard=False) as log:  # Rewrites the file.
    log.write({"step": 1, "lr": 0.2, "memory_mib": None})
assert (run / "log.jsonl").read_text().count("lr") == 1
with collected_signals() as received:
    import signal
    signal.raise_signal(signal.SIGTERM)
assert received == [signal.SIGTERM]
"""


def python(code: str, *arguments: object) -> None:
    """Runs code in a process in which the package sees the standard library of Windows."""
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'export'), str(ROOT / 'tests')]}\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=250
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_every_module_imports() -> None:
    assert len(MODULES) > 100 and "alphanet_export.verify.measure.process" in MODULES
    python(f"import importlib, windows; windows.pretend()\nfor name in {MODULES}:\n    importlib.import_module(name)")


def test_networks_checkpoints_locks_and_logs_are_stored(tmp_path: Path) -> None:
    python(f"import windows; windows.pretend()\n{USE}", tmp_path)


WORKERS = """
import multiprocessing, sys
sys.path[:0] = {paths}
import windows

windows.pretend()  # Also in the workers, which import this file.
if __name__ == "__main__":
    from alphanet_zoo.cli.main import main

    multiprocessing.set_start_method("spawn")
    sys.exit(main(["train", "digits", "output={output}", "device=cpu", "data.workers=1", "max_steps=3"]))
"""


@pytest.mark.slow
def test_training_with_data_workers_started_by_spawn(tmp_path: Path) -> None:
    """Windows and macOS start processes by 'spawn', which pickles what a worker gets."""
    script, output = tmp_path / "script.py", tmp_path / "run"
    paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "tests")]
    script.write_text(WORKERS.format(paths=paths, output=output))
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (output / "final" / "model.safetensors").exists() and not (output / ".lock").exists()
    assert (output / "run.html").exists()


def test_a_drive_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(UsageError, match="lies on a drive that does not exist"):
        check_writable("/no/such/drive")


def test_the_pretence_hides_what_windows_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No module named 'fcntl'"):
        python("import windows; windows.pretend()\nexec('import fcntl', {'__name__': 'alphanet_zoo.x'})")
    with pytest.raises(AssertionError, match="no attribute 'getuid'"):
        python("import windows; windows.pretend()\nexec('import os; os.getuid()', {'__name__': 'alphanet_zoo.x'})")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_posix_attributes_are_used(path: Path) -> None:
    """Also in code that the tests above do not run."""
    guarded = GUARDED.get(path.relative_to(ROOT).as_posix(), set())
    known = {"os": windows.WINDOWS_OS | guarded, "signal": windows.WINDOWS_SIGNAL | guarded}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            assert node.attr in known[node.value.id], f"line {node.lineno}: {node.value.id}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module in known:
            assert {alias.name for alias in node.names} <= known[node.module], f"line {node.lineno}"
