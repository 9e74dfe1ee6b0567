"""Who may import whom, and how large a file may be: read off the sources, whatever is installed."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "testbed").rglob("*.py"))
METHODS = ("attack", "trigger", "defence", "detector", "judge", "model", "data")
CONCRETE = ("attack", "trigger", "defence", "detector", "judge", "model")
FOR_METHODS = (
    *("testbed.api", "testbed.features", "testbed.identity", "testbed.language", "testbed.library", "testbed.numerics"),
    *("testbed.words", "testbed.marks", "testbed.plain_json", "testbed.tensor_file", "testbed.files.beside"),
)
FOR_PIPELINES = (
    *("testbed.api", "testbed.artefact", "testbed.contract", "testbed.data.overlay", "testbed.features", "testbed.figure"),
    *("testbed.fit", "testbed.identity", "testbed.metrics", "testbed.pipeline", "testbed.record", "testbed.statistics"),
    *("testbed.table", "testbed.words", "testbed.agreement", "testbed.answers", "testbed.baseline", "testbed.degradation"),
    *("testbed.language", "testbed.page", "testbed.picture", "testbed.trajectory", "testbed.training", "testbed.visibility"),
    *("testbed.export", "testbed.files", "testbed.index", "testbed.leaderboard", "testbed.lock", "testbed.plan"),
    *("testbed.plain_yaml", "testbed.source", "testbed.suite"),
    *("testbed.comparison", "testbed.rules", "testbed.suspect", "testbed.target", "testbed.verdict"),
    *("testbed.__version__", "testbed.exported", "testbed.manifest", "testbed.marks", "testbed.replay"),
)
FOR_CONTRACT = (*(name for name in FOR_PIPELINES if name not in ("testbed.pipeline", "testbed.record", "testbed.artefact")),)
FOR_LAUNCHERS = (
    *("testbed.launcher", "testbed.record", "testbed.table", "testbed.telling", "testbed.words", "testbed.api"),
    "testbed.error",
    *(
        "testbed.pipeline",
        "testbed.files",
        "testbed.identity",
        "testbed.index",
        "testbed.leaderboard",
        "testbed.lock",
        "testbed.plan",
        "testbed.source",
        "testbed.suite",
    ),
    *("testbed.rules", "testbed.finding", "testbed.plain_yaml", "testbed.checkup", "testbed.marks", "testbed.shortage"),
    "testbed.tidy",
)
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "base"}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in it; of `from a import b`, both a and a.b are named as 'a.b'."""
    names: set[str] = set()
    home = _module(path).split(".")
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(home[: len(home) - node.level + (path.name == "__init__.py")]) if node.level else ""
            start = ".".join(part for part in (above, node.module) if part)
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def _of(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if any(name == package or name.startswith(f"{package}.") for package in packages)}


def _group(path: Path) -> str:
    parts = path.relative_to(ROOT / "testbed").parts
    return parts[0] if len(parts) > 1 else ""


def _in(*groups: str) -> list[Path]:
    return [path for path in SOURCES if _group(path) in groups]


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_read() -> None:
    assert {_group(path) for path in SOURCES} >= {*METHODS, "pipeline", "launcher", "numerics", "contract"} - {"judge"}


@pytest.mark.parametrize("path", _in(*METHODS), ids=_named)
def test_a_method_knows_the_nouns_its_own_group_and_libraries(path: Path) -> None:
    ours = _of(_imports(path), "testbed")
    assert ours - _of(ours, *FOR_METHODS, f"testbed.{_group(path)}") == set()


@pytest.mark.parametrize("path", _in("pipeline"), ids=_named)
def test_a_pipeline_knows_no_concrete_method(path: Path) -> None:
    ours = _of(_imports(path), "testbed")
    assert ours - _of(ours, *FOR_PIPELINES) == set()


@pytest.mark.parametrize("path", _in("contract"), ids=_named)
def test_the_contract_knows_no_concrete_method_and_no_pipeline(path: Path) -> None:
    ours = _of(_imports(path), "testbed")
    assert ours - _of(ours, *FOR_CONTRACT) == set()


@pytest.mark.parametrize("path", _in("pipeline"), ids=_named)
def test_a_pipeline_does_not_know_what_an_image_is(path: Path) -> None:
    assert re.findall(r"torchvision|\bPIL\b|ImageTask|[Ii]mages?\b", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", _in("numerics"), ids=_named)
def test_mathematics_needs_torch_alone(path: Path) -> None:
    names = _imports(path)
    foreign = names - _of(names, "torch", "testbed.numerics", "testbed.api", "testbed.features")
    assert {name for name in foreign if name.partition(".")[0] not in sys.stdlib_module_names} == set()


@pytest.mark.parametrize("path", _in("launcher"), ids=_named)
def test_a_launcher_knows_pipelines_only(path: Path) -> None:
    ours = _of(_imports(path), "testbed")
    assert ours - _of(ours, *FOR_LAUNCHERS, "testbed.contract.examination.GROUPS") == set()


def test_the_command_line_knows_words_and_launchers() -> None:
    ours = _of(_imports(ROOT / "testbed" / "cli.py"), "testbed")
    assert (
        ours
        - _of(
            ours,
            "testbed.launcher",
            "testbed.pipeline",
            "testbed.record",
            "testbed.words",
            "testbed.manual",
            "testbed.__version__",
        )
        == set()
    )


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent == ROOT / "testbed"], ids=_named)
def test_the_core_knows_no_method_no_pipeline_and_no_launcher(path: Path) -> None:
    if path.name != "cli.py":
        wrong = _of(_imports(path), *(f"testbed.{group}" for group in (*CONCRETE, "pipeline", "launcher", "contract", "cli")))
        assert wrong == set()


def test_attacks_defences_and_detectors_do_not_know_one_another() -> None:
    for group in ("attack", "defence", "detector"):
        others = [f"testbed.{other}" for other in ("attack", "defence", "detector") if other != group]
        assert {_named(path) for path in _in(group) if _of(_imports(path), *others)} == set()


@pytest.mark.parametrize(
    ("library", "allowed"), [("hydra", "cli.py launcher/"), ("omegaconf", "cli.py launcher/"), ("wandb", "logger/")]
)
def test_a_frame_is_known_in_one_place(library: str, allowed: str) -> None:
    places = tuple(f"testbed/{place}" for place in allowed.split())
    assert {_named(path) for path in SOURCES if _of(_imports(path), library) and not _named(path).startswith(places)} == set()


@pytest.mark.parametrize("path", SOURCES, ids=_named)
def test_a_file_is_short_and_says_what_it_is_about(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 300
    assert not VAGUE & set(path.with_suffix("").parts[len(ROOT.parts) :])
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse("\n".join(lines)))


def test_every_group_of_methods_has_a_folder_of_configuration() -> None:
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert {_group(path) for path in _in(*METHODS)} <= groups


def test_the_folder_of_data_sets_is_no_package() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()
