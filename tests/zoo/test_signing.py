"""Signatures of published folders."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError
from alphanet_zoo.zoo.local import models_folder, write_manifest
from alphanet_zoo.zoo.signing import SIGNATURE, check_signature, sign_folder

installed = pytest.mark.skipif(find_spec("model_signing") is None, reason="requires the extra sign")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a model in a cache of the test's own."""
    monkeypatch.setenv("ALPHANET_HOME", str(tmp_path / "home"))
    made = models_folder() / "mine"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    write_manifest(made, {"top1": []})
    return made


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A new private key and its public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                          serialization.NoEncryption()))  # fmt: skip
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM,
                                                     serialization.PublicFormat.SubjectPublicKeyInfo))  # fmt: skip
    return private, public


def test_without_the_package_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for action in (sign_folder, check_signature):
        with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[sign\]"):
            action(folder, tmp_path / "key.pem")
    assert not (folder / SIGNATURE).exists()


@installed
def test_a_signature_finds_every_change(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = key_pair(tmp_path, "one")
    _, another = key_pair(tmp_path, "two")
    verify = ["models", "--verify", "--public-key"]
    assert main([*verify, str(public)]) == 1 and "has no model.sig" in capsys.readouterr().err
    sign_folder(folder, private)
    sign_folder(folder, private)
    assert main([*verify, str(public)]) == 0
    assert main([*verify, str(another)]) == 1 and "is not valid" in capsys.readouterr().err
    (folder / "new.txt").write_text("x")
    with pytest.raises(AlphaNetError, match="is not valid"):
        check_signature(folder, public)
    (folder / "new.txt").unlink()
    check_signature(folder, public)
    (folder / "model.safetensors").write_bytes(b"Weights")  # And a manifest that fits.
    write_manifest(folder, {"top1": []})
    assert main(["models", "--verify"]) == 0
    assert main([*verify, str(public)]) == 1
    (tmp_path / "bad.pem").write_text("no key")
    for action in (sign_folder, check_signature):
        with pytest.raises((UsageError, AlphaNetError), match=r"bad\.pem|has no"):
            action(folder, tmp_path / "bad.pem")


@installed
def test_the_command_of_model_signing_reads_the_signature(folder: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "one")
    sign_folder(folder, private)
    words = [sys.executable, "-m", "model_signing", "verify", "key", str(folder), "--signature",
             str(folder / SIGNATURE), "--public_key", str(public)]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("folder")
def test_a_public_key_requires_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.pub").write_text("key")
    assert main(["models", "--public-key", str(tmp_path / "key.pub")]) == 2
    assert "--public-key requires --verify" in capsys.readouterr().err
