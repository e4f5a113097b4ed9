"""Measures a device without Python: writes the parts as ONNX files with a shell script, and reads its times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from alphanet_export.latency.graphs import graph_bytes
from alphanet_export.latency.measure import Network, model_of, random_networks
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.search.device import LatencyModel, distinct_parts
from alphanet_zoo.space.space import SearchSpace

MANIFEST, SCRIPT, TIMES = "profile.json", "measure.sh", "times.txt"

_TOOLS = {
    "onnxruntime": (
        "onnxruntime_perf_test",
        '"$TOOL" -I -e cpu -m times -r "$RUNS" -x "$THREADS" "$1" "$1.result" 2>&1',
        "s/.*Average inference time cost[^:]*: *\\([0-9.]*\\) *\\([mu]s\\).*/\\1 \\2/p",
    ),
    "openvino": (
        "benchmark_app",
        '"$TOOL" -m "$1" -d CPU -hint none -api sync -nstreams 1 -nthreads "$THREADS" -niter "$RUNS" '
        "-infer_precision f32 2>&1",
        "s/.*Min: *\\([0-9.]*\\) *\\([mu]s\\).*/\\1 \\2/p",
    ),
}
"""Command-line tool of each runtime, how it runs a file, and the ``sed`` command that finds the time and its unit."""

_TEXT = """#!/bin/sh
# Times every ONNX file in this folder with @TOOL@, in @ROUNDS@ rounds, and writes @TIMES@.
# It uses only @TOOL@ and the standard tools of a POSIX system. To use another path: TOOL=/path/@TOOL@ sh @SCRIPT@
# A measurement that was stopped continues when the script is started again.
cd "$(dirname "$0")" || exit 1
TOOL=${TOOL:-@TOOL@}
THREADS=@THREADS@
RUNS=${RUNS:-@RUNS@}
command -v "$TOOL" > /dev/null || { echo "$TOOL was not found; set TOOL to its path" >&2; exit 1; }
touch @TIMES@
run() { @RUN@; }
round=1
count=$(ls ./*.onnx | wc -l)
while [ "$round" -le @ROUNDS@ ]; do
  number=0
  for file in *.onnx; do
    number=$((number + 1))
    [ $((number % 25)) -ne 1 ] || echo "round $round of @ROUNDS@: file $number of $count"
    grep -q "^$round $file " @TIMES@ && continue
    time=$(run "$file" | sed -n '@SED@' | awk 'NR == 1 { print $2 == "us" ? $1 / 1000 : $1 }')
    [ -n "$time" ] || { echo "$TOOL printed no time for $file" >&2; exit 1; }
    echo "$round $file $time" >> @TIMES@
  done
  round=$((round + 1))
done
echo "done; copy this folder back and run: alphanet profile --import FOLDER --name DEVICE -o device.json"
"""


def export_parts(
    space: SearchSpace, num_classes: int, runtime: str, threads: int, folder: Path, *, rounds: int = 8, runs: int = 10
) -> int:
    """Writes the parts and whole subnets of a space as ONNX files, and the script that times them.

    Args:
        space: The search space.
        num_classes: Classes of the classifier.
        runtime: 'onnxruntime' or 'openvino'.
        threads: Threads within an operator.
        folder: The folder; it is created if it does not exist.
        rounds: Number of rounds.
        runs: Runs of each file per round.

    Returns:
        The number of files.

    Raises:
        UsageError: The runtime has no command-line tool that reads ONNX, or the folder is not empty.
    """
    if runtime not in _TOOLS:
        raise UsageError(f"--export-blocks supports {' and '.join(_TOOLS)}, not {runtime}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; pass a new folder")
    files = _files(space, num_classes)
    for name, parts in files.items():
        (folder / name).write_bytes(graph_bytes(parts))
    tool, command, expression = _TOOLS[runtime]
    values = {"TOOL": tool, "THREADS": threads, "RUNS": runs, "ROUNDS": rounds, "RUN": command, "SED": expression,
              "TIMES": TIMES, "SCRIPT": SCRIPT}  # fmt: skip
    text = _TEXT
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    (folder / SCRIPT).write_text(text, "utf-8")
    manifest = {"space": space.to_dict(), "num_classes": num_classes, "runtime": runtime, "threads": threads,
                "rounds": rounds, "runs": runs, "tool": tool}  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return len(files)


def import_times(folder: Path, device: str) -> LatencyModel:
    """The latency model of the times that the script of `export_parts` wrote.

    Args:
        folder: The folder, copied back from the device.
        device: Name of the device.

    Raises:
        UsageError: The folder is not one of `export_parts`, or times are missing.
        AlphaNetError: A file is damaged.
    """
    if not (folder / MANIFEST).is_file() or not (folder / TIMES).is_file():
        raise UsageError(f"{folder} does not contain {MANIFEST} and {TIMES}; run {SCRIPT} of --export-blocks first")
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        space = SearchSpace.from_dict(manifest.pop("space"))
        num_classes = int(manifest.pop("num_classes"))
        times: dict[str, float] = {}
        for line in (folder / TIMES).read_text("utf-8").splitlines():
            _, name, ms = line.split()
            times[name] = min(float(ms), times.get(name, float("inf")))
    except (ValueError, KeyError) as error:
        raise AlphaNetError(f"cannot read the times in {folder}: {error}; run {SCRIPT} again") from error
    files = _files(space, num_classes)
    missing = [name for name in files if not times.get(name)]
    if missing:
        raise UsageError(f"{folder / TIMES} has no time of {len(missing)} of {len(files)} files, such as {missing[0]}; "
                         f"run {SCRIPT} again, which continues")  # fmt: skip
    measured: Mapping[Network, float] = {parts: times[name] for name, parts in files.items()}
    return model_of({"cpu": device, **manifest}, space, num_classes, measured)


def _files(space: SearchSpace, num_classes: int) -> dict[str, Network]:
    """The parts and whole subnets by the names of their files."""
    files: dict[str, Network] = {f"{part.key}.onnx": (part,) for part in distinct_parts(space, num_classes)}
    return files | {f"net-{i:02d}.onnx": net for i, net in enumerate(random_networks(space, num_classes))}
