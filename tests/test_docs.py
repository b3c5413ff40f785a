"""What the documentation names exists: files, links, commands with their options, make targets, settings, imports."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mllmseg.cli import app
from mllmseg.config import Config, EvalConfig, ModelConfig, SuperpixelConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("benchmarks/*.md")]
)
# Named before it is there: such a path is skipped, visibly, until somebody adds it.
NOT_YET = (
    "mllmseg/agent/tools.py",
    "mllmseg/assets/tiny",
    "docs/panel.md",
    "docs/panel.jpg",
)
# Made by the commands that the pages show, or a name that stands for any.
OTHERS = ("out/", "runs/", ".venv", "docs/panel/", "mllmseg/a/b.py", "tests/a/test_b.py")
FOLDERS = ("mllmseg", "configs", "scripts", "docs", "tests", "benchmarks", "examples", "demo", ".ci")
# Pages whose tables have a column "key", and the settings these belong to.
SETTINGS: dict[str, type[Config]] = {
    "docs/training.md": TrainConfig,
    "docs/weights.md": ModelConfig,
    "docs/evaluation.md": EvalConfig,
}


def text_of(page: Path) -> str:
    """The page without what it hides in comments."""
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def named_paths(page: Path) -> Iterator[str]:
    """Paths of the project in the prose of a page, seen from the root."""
    for code in inline_code(page):
        folder = code.partition("/")[0]
        if re.fullmatch(r"[\w./*-]+", code) and folder in FOLDERS and "/" in code:
            yield code
        elif re.fullmatch(r"[a-z]+/[\w/]+\.py", code) and (ROOT / "mllmseg" / folder).is_dir():
            yield f"mllmseg/{code}"  # CONTRIBUTING leaves the package out where it repeats itself
    for target in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
        if "://" not in target:
            yield str((page.parent / target).resolve().relative_to(ROOT))


def command_lines(page: Path) -> Iterator[list[str]]:
    """Shell commands of a page, in blocks or in the prose, as words."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    starts = ("mllmseg ", ".venv/bin/mllmseg ", "python ", "make ")
    for line in [*lines, *(code for code in inline_code(page) if code.startswith(starts))]:
        words = shlex.split(re.sub(r"\bor more\b|…", "", line), comments=True)
        if words:
            yield words


@functools.cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@functools.cache
def script_options(path: str) -> set[str]:
    """Options of a script by its source: strings that look like one, and the parameters of typer's `main`."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            found |= {"--" + argument.arg.replace("_", "-") for argument in node.args.args}
    return found


def check_mllmseg(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if "run" in command.commands and words[0] not in command.commands:
            words.insert(0, "run")  # `mllmseg eval CONFIG` means `mllmseg eval run CONFIG`
        names = words.pop(0).split("|")  # as in `mllmseg weights list|fetch|verify`
        assert set(names) <= command.commands.keys(), f"mllmseg has no command {names}, only {sorted(command.commands)}"
        command = command.commands[names[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help"}
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known
    assert not unknown, f"{command.name} knows no {unknown}, only {sorted(known)}"


def check_command(words: list[str]) -> None:
    program, *rest = words
    if Path(program).name == "mllmseg":
        check_mllmseg(rest)
    elif program == "make":
        unknown = {word for word in rest if "=" not in word and not word.startswith("-")} - make_targets()
        assert not unknown, f"the Makefile has no target {unknown}"
    elif program == "python" and rest:
        assert (ROOT / rest[0]).is_file(), f"{rest[0]} does not exist"
        unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - script_options(rest[0])
        assert not unknown, f"{rest[0]} knows no {unknown}"


def each_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_named_files_exist(page: Path) -> None:
    named = {path for path in named_paths(page) if not path.startswith(OTHERS)}
    missing = {path for path in named if not list(ROOT.glob(path.rstrip("/")))}
    assert not {path for path in missing if not path.startswith(NOT_YET)}
    if missing:
        pytest.skip(f"not there yet: {', '.join(sorted(missing))}")


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_commands_exist(page: Path) -> None:
    for words in command_lines(page):
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_imports_of_examples_exist(page: Path) -> None:
    for node in (node for block in blocks(page, "python") for node in ast.walk(ast.parse(block))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("mllmseg"):
            continue
        path = ROOT / str(node.module).replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert source.is_file(), f"no module {node.module}"
        for alias in node.names:
            assert re.search(
                rf"\b(class|def|import) {alias.name}\b|^{alias.name}\b", source.read_text(encoding="utf-8")
            )


@pytest.mark.parametrize("page", SETTINGS)
def test_settings_exist(page: str) -> None:
    tables = re.findall(r"^\| key \|.*\n\|[-|]+\n((?:\|.*\n)+)", text_of(ROOT / page), flags=re.MULTILINE)
    keys = [key for row in "".join(tables).splitlines() for key in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    assert keys
    for key in keys:
        settings: Any = SETTINGS[page]
        for part in key.split("."):
            assert part in settings.model_fields, f"{page}: {settings.__name__} has no '{part}' (of '{key}')"
            settings = settings.model_fields[part].annotation


def test_superpixel_settings_exist() -> None:
    words = {code for code in inline_code(ROOT / "docs/superpixels.md") if re.fullmatch(r"[a-z]+_[a-z_]+", code)}
    assert words - {"coarse_first"} <= SuperpixelConfig.model_fields.keys()


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_environment_variables_are_read_somewhere(page: Path) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mllmseg").rglob("*.py"))
    named = set(re.findall(r"\bMLLMSEG_[A-Z_]+", text_of(page)))
    assert not {name for name in named if f'"{name}"' not in code}


def test_panel_is_complete() -> None:
    panel = yaml.safe_load((ROOT / "docs/panel.yaml").read_text(encoding="utf-8"))
    photos = [item["photo"] for item in panel["photos"]]
    assert len(set(photos)) >= 10
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*.jpg")} == set(photos)
    for item in panel["photos"]:
        assert {query["present"] for query in item["queries"]} == {True, False}, f"{item['photo']}: ask for both kinds"


def test_every_photo_has_origin_and_licence() -> None:
    rows = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("examples/*.jpg"):
        assert f"| `{path.name}` |" in rows
        assert path.stat().st_size <= 100_000
