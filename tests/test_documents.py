"""The documents agree with the code, their links and commands work, and their language is plain."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import yaml

import alphanet_zoo as az
from alphanet_zoo.cli import main as cli
from alphanet_zoo.space.presets import IMAGENET_FAMILY
from alphanet_zoo.train.config import valid_keys
from alphanet_zoo.train.settings import page, settings_of
from alphanet_zoo.zoo.families import shipped_family

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/RESULTS.md"]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))

BANNED = (
    "is no", "goes with", "nowhere", "rooms", "the house", "made up", "made - up", "of ours", "told", "wholly", "wants",
    "learnt from", "has no use", "of no use", "gives way", "buys", "mend", "vouches", "is worth", "to the bit",
    "where there is", "where there are", "where it is missing", "where missing", "; give", "and give", "or give",
    "as people write it", "what a person keeps", "without a thought", "says which", "does not say",
    "images a second", "images a step", "images a batch", "images a run", "seconds a step", "steps a turn",
    "s a core", "ms a request", "one a request", "once a round", "a folder a class", "a colour a model",
)  # fmt: skip
"""Phrases that do not belong in technical documentation."""
ALLOWED = ("there is no", "is no longer")
"""Correct uses of a banned phrase."""


def sources() -> list[Path]:
    """Python and C++ sources, recipes, templates, the web page, and build files."""
    packages = (ROOT / "alphanet_zoo", ROOT / "export/alphanet_export", ROOT / "benchmarks")
    python = [path for package in packages for path in package.rglob("*.py")]
    folders = ("templates", "verify/templates", "writers/web")
    texts = [path for folder in folders for path in (ROOT / "export/alphanet_export" / folder).glob("*.*")]
    recipes = (ROOT / "alphanet_zoo/recipes").glob("*.yaml")
    others = [ROOT / name for name in ("hubconf.py", "Makefile", "pyproject.toml", "mkdocs.yml", "docs/site_pages.py")]
    kernels = (ROOT / "alphanet_zoo/nn/cpu_kernels").glob("*.cpp")
    return sorted({*python, *kernels, *texts, *recipes, *others})


PLAIN = [*DOCUMENTS, *NOTEBOOKS, *sources()]
"""Files that must not contain banned phrases."""


def table_rows(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows if row[0].startswith("alphanet_a")}


@pytest.mark.parametrize("page", ["README.md", "MODEL_CARD.md", "docs/cifar10.md"])
def test_the_included_family_is_described_as_it_is(page: str) -> None:
    family = shipped_family()
    assert family is not None
    rows = [
        line.strip("|").split("|")
        for line in (ROOT / page).read_text("utf-8").splitlines()
        if "| `alphanet_c10_" in line
    ]
    found = {cells[0].strip(" `"): [cell.split()[0] for cell in cells[1:5]] for cells in rows}
    assert list(found) == [member.name for member in family.members]
    for member in family.members:
        macs, params = (count(member.arch, member.space, 10) / 1e6 for count in (az.count_macs, az.count_params))
        expected = [f"{macs:.2f}", f"{params:.2f}", str(member.arch.resolution), f"{member.top1:.2f}"]
        assert found[member.name] == expected
    measured = (ROOT / "benchmarks/RESULTS.md").read_text("utf-8")
    for cells in rows:
        latency, size = (cell.strip() for cell in cells[5:])
        assert re.search(rf"\| {cells[0].strip()} \| {size} \| \S+ \| {latency} \(", measured)


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
    family = shipped_family()
    assert family is not None
    assert published == {member.name: member.top1 for member in (*family.members, *IMAGENET_FAMILY)}
    assert list(published)[: len(family.members)] == [member.name for member in family.members]
    assert card["license"] == "other" and card["pipeline_tag"] == "image-classification"
    assert "Apache-2.0" in body and "CC-BY-NC-4.0" in body
    imagenet = {member.name: member.top1 for member in IMAGENET_FAMILY}
    assert {name: float(row[-1]) for name, row in table_rows(body).items()} == imagenet


def test_model_card_parses_as_hugging_face_parses_it() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(ROOT / "MODEL_CARD.md")
    assert card.data.eval_results


def prose(document: Path) -> str:
    """The text of a document or notebook without its code blocks."""
    text = document.read_text("utf-8")
    if document.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, *NOTEBOOKS], ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", prose(document)):
        if "://" not in target:
            linked = document.parent / target if target else document
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def test_comments_in_code_are_not_anchors(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n```sh\n# a comment\n```\n\n## Part: one\n")
    assert anchors(page) == {"a-title", "part-one"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_shown_use_flags_that_exist(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = document.read_text().replace("\\\n", " ")
    for command, line in re.findall(r"^\s*alphanet ([\w-]+) ?(.*)$", text, re.MULTILINE):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        known = capsys.readouterr().out
        for flag in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", line.split("#")[0]):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", known), f"{command} has no {flag}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_and_settings_named_in_the_text_exist(document: Path) -> None:
    text = document.read_text()
    for command in re.findall(r"`alphanet ([a-z][\w-]*)", text):
        assert command in cli.COMMANDS, command
    for key in re.findall(r"(?<![\w.])((?:data|distributed|finetune|guard|log|optim|sandwich|validation)\.\w+)=", text):
        assert key in set(valid_keys()), key


def banned_phrases(text: str) -> list[str]:
    """The banned phrases in a text or in source code, also if a line break or a string's end divides them."""
    joined = re.sub(r'"\s*\n\s*f?"', "", text.lower())
    words = " ".join(re.sub(r"([^\w\s])", r" \1 ", joined).split())  # Punctuation becomes words of its own.
    for phrase in ALLOWED:
        words = words.replace(phrase, "")
    return [phrase for phrase in BANNED if f" {phrase} " in f" {words} "]


def test_banned_phrases_are_found() -> None:
    assert banned_phrases("Its statistics come\n  from nowhere; give others") == ["nowhere", "; give"]
    assert banned_phrases('raise ValueError("Images are made "\n    f"up")') == ["made up"]
    assert banned_phrases("With made-up weights, 5 images a second.") == ["made - up", "images a second"]
    assert banned_phrases("x is no run, and if there is no file, it is\n    no tensor") == ["is no"]
    assert banned_phrases("The household; given images per second. There is no file; it is no longer used.") == []


def test_all_sources_are_checked() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in PLAIN}
    assert {
        "README.md", "benchmarks/export.py", "hubconf.py", "alphanet_zoo/zoo/hub.py",
        "alphanet_zoo/recipes/digits.yaml", "export/alphanet_export/verify/measure/kserve.py",
        "export/alphanet_export/verify/templates/report.html",
        "export/alphanet_export/writers/web/app.js", "export/alphanet_export/templates/README.md.jinja",
    } <= names  # fmt: skip


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_language_is_plain(path: Path) -> None:
    assert banned_phrases(path.read_text(encoding="utf-8")) == []


def test_the_reference_of_the_settings_is_that_of_the_schema() -> None:
    written = (ROOT / "docs/settings.md").read_text("utf-8")
    assert written == page(), "run python -m alphanet_zoo.train.settings > docs/settings.md"
    assert [each.key for each in settings_of()] == list(valid_keys())
    assert [each.key for each in settings_of() if len(each.meaning) < 10] == []


def test_the_arguments_of_slimmable_have_the_defaults_that_the_page_states() -> None:
    text = (ROOT / "docs/slimmable.md").read_text("utf-8").partition("## Arguments")[2]
    stated = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    parameters = inspect.signature(az.slimmable).parameters
    assert stated == {name: repr(parameters[name].default) for name in parameters if name not in ("net", "origin")}
