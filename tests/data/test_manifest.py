import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from alphanet_zoo.cli.main import main
from alphanet_zoo.data.manifest import check_manifest, read_manifest, verify_images, write_manifest
from alphanet_zoo.errors import AlphaNetError, UsageError


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("b/2.jpg", (30, 20)), ("a/x/1.PNG", (7, 9)), ("c.jpeg", (16, 16))):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def run(capsys, *arguments):
    code = main(["verify-data", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("threads", [1, 3])
def test_a_manifest_says_what_each_image_is(root, threads):
    report = write_manifest(root, threads=threads)
    assert (report.files, report.problems) == (3, ())
    lines = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["a/x/1.PNG", "b/2.jpg", "c.jpeg"]
    assert [(line["width"], line["height"]) for line in lines] == [(7, 9), (30, 20), (16, 16)]
    for line in lines:
        content = (root / line["path"]).read_bytes()
        assert line["bytes"] == len(content) and line["sha256"] == hashlib.sha256(content).hexdigest()
    assert tuple(read_manifest(root)) == report.entries == check_manifest(root).entries
    assert check_manifest(root, threads=threads).problems == ()


def test_every_kind_of_difference_is_reported(root):
    (root / "d.png").write_bytes((root / "a/x/1.PNG").read_bytes())
    write_manifest(root)
    content = bytearray((root / "b/2.jpg").read_bytes())
    content[-30] ^= 1
    (root / "b/2.jpg").write_bytes(content)
    (root / "c.jpeg").write_bytes((root / "c.jpeg").read_bytes() + b"x")
    (root / "a/x/1.PNG").rename(root / "a/x/9.png")
    (root / "d.png").unlink()
    problems = check_manifest(root, threads=2).problems
    assert [problem.split(":")[0] for problem in problems] == ["a/x/1.PNG", "a/x/9.png", "b/2.jpg", "c.jpeg", "d.png"]
    for problem, what in zip(problems, ("missing", "not in", "another SHA-256", "bytes,", "missing"), strict=True):
        assert what in problem


def test_damaged_images_are_found_and_keep_the_manifest_from_being_written(root):
    (root / "b/2.jpg").write_bytes((root / "b/2.jpg").read_bytes()[:400])
    report = verify_images(root)
    assert report.files == 3 and [entry.path for entry in report.entries] == ["a/x/1.PNG", "c.jpeg"]
    (problem,) = report.problems
    assert problem.startswith("b/2.jpg: damaged: cannot read the image b/2.jpg")
    assert write_manifest(root).problems == report.problems and not (root / "manifest.jsonl").exists()


def test_wrong_folders_and_manifests_are_refused(root, tmp_path_factory):
    with pytest.raises(UsageError, match="no such folder"):
        verify_images(root / "none")
    with pytest.raises(UsageError, match="contains no images"):
        verify_images(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UsageError, match="--write-manifest"):
        check_manifest(root)
    (root / "manifest.jsonl").write_text('{"path": "c.jpeg"}\n')
    with pytest.raises(AlphaNetError, match="damaged in line 1"):
        check_manifest(root)


def test_the_command_reports_and_has_its_exit_codes(root, capsys):
    assert run(capsys, root)[:2] == (0, f"3 files, {size_of(root):,} bytes: no problems\n")
    assert run(capsys, root, "--write-manifest")[0] == 0 and (root / "manifest.jsonl").exists()
    assert run(capsys, root, "--check", "--threads", "2")[0] == 0
    (root / "c.jpeg").unlink()
    code, out, err = run(capsys, root, "--check")
    assert (code, out) == (1, "c.jpeg: missing\n") and "1 problem in 2 files" in err and err.count("\n") == 1
    assert run(capsys, root / "none")[0] == 2
    assert run(capsys, root, "--check", "--write-manifest")[0] == 2
    assert run(capsys, root, "--threads", "-1")[0] == 2


def size_of(root):
    return sum(path.stat().st_size for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def test_its_help_needs_no_torch():
    script = (
        "import sys\nfrom alphanet_zoo.cli.main import main\n"
        "try:\n    main(['verify-data', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert main(['verify-data', 'none-such']) == 2\n"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: alphanet verify-data") and "--threads" in done.stdout
