"""The documents say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import alphanet_zoo as az
from alphanet_zoo.cli.main import COMMANDS, main
from alphanet_zoo.space.presets import IMAGENET_FAMILY

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/RESULTS.md"]


def table_rows(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows if row[0].startswith("alphanet_a")}


def test_readme_family_is_the_codes() -> None:
    rows = table_rows((ROOT / "README.md").read_text())
    assert list(rows) == az.list_models(family="imagenet")
    for member in IMAGENET_FAMILY:
        macs, params = az.count_macs(member.arch) / 1e6, az.count_params(member.arch) / 1e6
        assert rows[member.name] == [f"{macs:.2f}", f"{params:.2f}", str(member.arch.resolution), f"{member.top1:.2f}"]


def test_model_card_is_in_hugging_faces_form() -> None:
    _, front, body = (ROOT / "MODEL_CARD.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    published = {entry["name"]: entry["results"][0]["metrics"][0]["value"] for entry in card["model-index"]}
    assert published == {member.name: member.top1 for member in IMAGENET_FAMILY}
    assert card["license"] == "other" and card["pipeline_tag"] == "image-classification"
    assert "Apache-2.0" in body and "CC-BY-NC-4.0" in body
    assert {name: float(row[-1]) for name, row in table_rows(body).items()} == published


def test_model_card_parses_as_hugging_face_parses_it() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(ROOT / "MODEL_CARD.md")
    assert card.data.eval_results


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def help_of(program: str, command: str, line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help of the command that a line runs, and the old spelling of that command if the line uses it."""
    old = {("verify", "--all"): "compare", ("verify", "--server"): "verify-server"}
    words = line.split()
    spelled = next((flag for name, flag in old if name == command and flag in words), "")
    if program == "alphanet-":
        command = old.get((command, spelled), words[0] if words and words[0] in COMMANDS else command)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return f"{capsys.readouterr().out} {spelled if program == 'alphanet-' else ''}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_shown_use_flags_that_exist(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = document.read_text().replace("\\\n", " ")
    for program, command, line in re.findall(r"^\s*(alphanet[- ])([\w-]+) (.*)$", text, re.MULTILINE):
        assert command in COMMANDS, f"{program}{command}"
        known = help_of(program, command, line, capsys)
        for flag in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", line.split("#")[0]):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", known), f"{program}{command} has no {flag}"
