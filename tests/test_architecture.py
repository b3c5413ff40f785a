"""The layout of the project, enforced: who may import whom, and which module owns which heavy library."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest first; a module imports from its own unit and from lower layers only. Units that share a layer do not import
# each other, except where a layer is listed in SOCIABLE.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("mllmseg.constants", "mllmseg.errors"),
    ("mllmseg.registry", "mllmseg.config", "mllmseg.package_index", "mllmseg.progress", "mllmseg.weights_table"),
    ("mllmseg.structures", "mllmseg.distributed", "mllmseg.timing", "mllmseg.weights", "mllmseg.chat_endpoint"),
    ("mllmseg.models", "mllmseg.data"),
    ("mllmseg.inference",),
    ("mllmseg.eval",),
    ("mllmseg.demo", "mllmseg.agent", "mllmseg.train", "mllmseg.bench"),
    ("mllmseg.doctor",),
    ("mllmseg.commands",),
    ("mllmseg.cli",),
    ("demo",),
)
# The three lowest layers hold single files, which may use one another; cycles are excluded by their own test.
SOCIABLE = {0, 1, 2}
# The agent is what the demo shows, so the demo may use it although both stand on one layer.
EXCEPTIONS = {("mllmseg.demo", "mllmseg.agent")}

HEAVY_OWNERS: dict[str, set[str]] = {
    "deepspeed": {"mllmseg.train.engine"},
    "segment_anything": {"mllmseg.models.sam", "mllmseg.models._segment_anything"},
    "peft": {"mllmseg.models.mllm"},
    "transformers": {
        "mllmseg.models.host",
        "mllmseg.models.host_tower",
        "mllmseg.models.mllm",
        "mllmseg.models.skeleton",
        "mllmseg.models.vision_tower",
        "mllmseg.weights",
    },
    "gradio": {"mllmseg.demo"},
}
# Modules the command line loads at once: everything slow is imported inside their functions.
LIGHT = (
    "mllmseg", "mllmseg.cli", "mllmseg.commands.bench", "mllmseg.commands.cache", "mllmseg.commands.chat",
    "mllmseg.commands.data", "mllmseg.commands.demo", "mllmseg.commands.evaluate", "mllmseg.commands.export",
    "mllmseg.doctor", "mllmseg.weights", "mllmseg.package_index", "mllmseg.progress",
)  # fmt: skip
SLOW_LIBRARIES = {
    "accelerate", "bitsandbytes", "deepspeed", "gguf", "gradio", "matplotlib", "pandas", "peft", "pycocotools",
    "safetensors", "scipy", "segment_anything", "skimage", "tensorboard", "torch", "torchvision", "transformers",
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, Path]:
    paths = [path for folder in ("mllmseg", "demo") for path in sorted((ROOT / folder).rglob("*.py"))]
    return {module_name(path): path for path in paths}


def imports(name: str, *, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    """Every module that `name` imports, with the line; imports for type checkers do not count."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parent = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*parent, *([base] if base else [])])
                for alias in child.names:  # `from mllmseg import weights` imports mllmseg.weights
                    inner = f"{base}.{alias.name}"
                    yield (inner if inner in modules() else base), child.lineno
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith("import_module"):
                yield from ((arg.value, child.lineno) for arg in child.args[:1] if isinstance(arg, ast.Constant))
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from visit(other)
            elif not (top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def layer_of(name: str) -> tuple[int, str] | None:
    """Layer and unit of one of our modules; None for the package itself, which anyone may import."""
    if name == "mllmseg":
        return None
    for number, units in enumerate(LAYERS):
        for unit in units:
            if name == unit or name.startswith(unit + "."):
                return number, unit
    raise AssertionError(f"{name} has no place in the layout: see LAYERS in {__file__} and CONTRIBUTING.md")


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("mllmseg", "demo")


def test_there_is_something_to_check() -> None:
    assert "mllmseg.errors" in modules()


@pytest.mark.parametrize("name", modules())
def test_imports_point_down(name: str) -> None:
    own = layer_of(name)
    if own is None:  # mllmseg/__init__.py: its one lazy import is checked in test_light_modules_load_nothing_slow
        return
    for imported, line in imports(name):
        other = layer_of(imported) if is_ours(imported) else None
        if other is None or other[1] == own[1] or (own[1], other[1]) in EXCEPTIONS:
            continue
        allowed = other[0] < own[0] or (other[0] == own[0] and own[0] in SOCIABLE)
        assert allowed, f"{modules()[name]}:{line}: {own[1]} must not import {imported}"


@pytest.mark.parametrize("name", modules())
def test_heavy_libraries_have_owners(name: str) -> None:
    for imported, line in imports(name):
        owners = HEAVY_OWNERS.get(imported.partition(".")[0])
        if owners is None:
            continue
        mine = any(name == owner or name.startswith(owner + ".") for owner in owners)
        assert mine, f"{modules()[name]}:{line}: {imported} is imported only by {', '.join(sorted(owners))}"


def test_no_import_cycles() -> None:
    graph = {
        name: {other for other, _ in imports(name, top_level_only=True) if other in modules()} for name in modules()
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - {name}):
                walk(other, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("name", [name for name in LIGHT if name in modules()])
def test_light_modules_load_nothing_slow(name: str) -> None:
    for imported, line in imports(name, top_level_only=True):
        library = imported.partition(".")[0]
        assert library not in SLOW_LIBRARIES, f"{modules()[name]}:{line}: import {imported} inside the function"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["weights", "list"]], ids=" ".join)
def test_command_line_answers_without_slow_libraries(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['mllmseg', *{arguments!r}]\n"
        "from mllmseg.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(answer.stdout.rpartition("LOADED")[2].split())
    assert "mllmseg" in loaded
    assert not loaded & SLOW_LIBRARIES


def test_no_file_for_odds_and_ends() -> None:
    forbidden = {"utils", "util", "misc", "helpers", "common"}
    found = [str(path) for name, path in modules().items() if forbidden & set(name.split("."))]
    assert not found, f"give these a name that says what they hold: {found}"


def test_no_print_and_no_bare_except() -> None:
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            bare = isinstance(node, ast.ExceptHandler) and node.type is None
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not bare, f"{path}:{node.lineno}: name the exception"
            assert not prints, f"{path}:{node.lineno}: only the command line prints"


def test_index_host_is_written_nowhere() -> None:
    host = "py" + "pi.org"  # assembled, so that this file passes its own test
    texts = [*modules().values(), *ROOT.glob("*.md"), *ROOT.glob("*.t*"), ROOT / "Makefile", *ROOT.glob("docs/*.md")]
    assert not [str(path) for path in texts if host in path.read_text(encoding="utf-8")]
