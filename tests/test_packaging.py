"""What is shipped is what is here: the wheel works elsewhere, and the declared dependencies are the imported ones."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that has to succeed, in an environment that says nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{command} in {cwd}: {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a virtual environment that has the wheel, and every package of this one except the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    pip = (sys.executable, "-m", "pip", "--isolated", "--python", folder / "bin" / "python")
    _run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth names has its own .pth files left alone, so this environment's editable install stays out.
    (packages / "parent.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return folder / "bin"


def _shipped(pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}


def test_wheel_holds_every_module_configuration_and_card(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    moved = _shipped("conf/**/*.yaml") | _shipped("datasets/*.md")
    beside = _shipped("testbed/skeleton/*.template") | _shipped("testbed/page/*.js") | _shipped("testbed/page/*.css")
    assert _shipped("testbed/**/*.py") | beside | {f"testbed/{path}" for path in moved} <= held
    assert {"testbed/conf/train.yaml", "testbed/conf/attack/badnets.yaml", "testbed/conf/data/digits.yaml"} <= held
    assert any(re.fullmatch(r"testbed/datasets/[^/]+\.md", name) for name in held)


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    allowed = re.compile(
        r"testbed/(.*\.py|py\.typed|conf/.*\.yaml|datasets/[^/]*\.md|skeleton/[^/]*\.template|page/[^/]*\.(js|css))"
        r"|testbed-[^/]*\.dist-info/.*"
    )
    assert [name for name in zipfile.ZipFile(wheel).namelist() if not allowed.fullmatch(name)] == []


def test_installed_wheel_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    module = Path(_run(installed / "python", "-c", "import testbed; print(testbed.__file__)", cwd=tmp_path).strip())
    assert module.is_relative_to(installed.parent)
    paths = _run(installed / "python", "-c", "import sys; print(*sys.path, sep='\\n')", cwd=tmp_path).splitlines()
    assert str(ROOT) not in paths


def test_installed_wheel_lists_methods(installed: Path, tmp_path: Path) -> None:
    assert "badnets" in _run(installed / "testbed", "list", "attack", cwd=tmp_path)
    listed = _run(installed / "testbed", "list", cwd=tmp_path)
    assert all(group in listed for group in ("attack", "data", "defence", "detector", "model"))


@pytest.mark.timeout(600)
def test_installed_wheel_trains(installed: Path, tmp_path: Path) -> None:
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = ("data=digits", "attack=badnets", "trainer.max_epochs=1", "logger=none", f"paths.outputs={outputs}")
    _run(installed / "testbed", "train", *settings, cwd=elsewhere)
    assert len(list(outputs.glob("train/*/result.json"))) == 1
    assert list(elsewhere.iterdir()) == [], "a run writes below paths.outputs only"


@cache
def _pins() -> dict[str, list[Requirement]]:
    """The exact versions in constraints.txt, by name; more than one where Python versions or systems differ."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def test_constraints_are_exact_versions_without_an_address() -> None:
    for pin in (pin for pins in _pins().values() for pin in pins):
        assert pin.url is None, pin
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), pin
    assert not re.search(r"://|@|--|^[^#]*/", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def _declared(*extras: str) -> list[Requirement]:
    """What the project and these extras ask for; an extra that names another one asks for all of that."""
    optional = [Requirement(line) for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    within = [named for one in optional if one.name == PROJECT["name"] for named in one.extras]
    nested = [one for one in _declared(*within) if one not in optional] if within else []
    return [*map(Requirement, PROJECT["dependencies"]), *(one for one in optional if one.name != PROJECT["name"]), *nested]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_constraints_pin_every_dependency_within_its_bounds(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for requirement in _declared("dev"):
        pins = [pin for pin in _pins()[canonicalize_name(requirement.name)] if _applies(pin.marker, environment)]
        assert len(pins) == 1, f"{requirement.name} on Python {python}: {pins}"
        assert requirement.specifier.contains(next(iter(pins[0].specifier)).version, prereleases=True), requirement


def _applies(marker: Marker | None, environment: dict[str, str]) -> bool:
    return marker is None or marker.evaluate(environment)


def _imported(source: str) -> set[str]:
    """Top-level names of the modules that a source file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_import_is_declared() -> None:
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"]
    declared = {canonicalize_name(requirement.name) for requirement in _declared(*extras)}
    distributions = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "testbed").rglob("*.py"))
        for name in _imported(path.read_text(encoding="utf-8")) - sys.stdlib_module_names - {"testbed"}
        if declared.isdisjoint(canonicalize_name(distribution) for distribution in distributions.get(name, [name]))
    }
    assert not undeclared, "declare them in pyproject.toml, then `make lock`"
