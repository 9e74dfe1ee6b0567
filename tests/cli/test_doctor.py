"""`testbed doctor`: what it finds, what it says to do, and that it changes nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from PIL import Image

from testbed.checkup import data_root, libraries, machine, output_folder
from testbed.checkup.finding import Finding, size
from testbed.checkup.packages import unmet
from testbed.launcher import doctor
from testbed.manual import EXAMPLES

Say = Callable[..., Any]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch is not asked, which takes seconds in a process of its own."""
    monkeypatch.setattr(doctor, "pytorch", lambda: iter([Finding("ok", "PyTorch", "not asked")]))


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a folder and when it was changed, the folder itself included."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, path.stat().st_mode, content)
    return found


def test_a_machine_that_will_do_in_a_process_of_its_own(spawn: Say, here: Path) -> None:
    before = state(here)
    said = spawn("doctor")
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert lines[-2].startswith("no problem") and lines[-1] == "heavy:", "the driver itself imports nothing heavy"
    marks = {line[9:27].strip(): line[:9].strip() for line in lines[:-2]}
    assert set(marks) >= {"Python", "packages", "PyTorch", "GPU", "memory", "sandbox", "outputs", "locks", "renames", "to disk"}
    assert state(here) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("data.root=nowhere",), 2, r"problem  data              there is no folder nowhere; say data.root=DIR"),
        (("paths.data=nowhere",), 2, r"problem  data              there is no folder nowhere; say paths.data=DIR"),
        (("paths.outputs=/proc/x",), 4, "problem  outputs           /proc/x cannot be written (no such file or directory)"),
        (("paths.outputs=/proc/x", "data.root=nowhere"), 4, "2 problems"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_was_named_and_will_not_do(words: tuple[str, ...], code: int, said: str, say: Say, here: Path) -> None:
    found = say("doctor", *words)
    assert (found.code, found.err) == (code, "") and said in found.out
    assert list(here.iterdir()) == []


def test_the_examples_of_its_help_are_understood() -> None:
    for line in EXAMPLES["doctor"].splitlines():
        words = line.split("  (")[0].split()[2:]
        assert list(doctor._given(words)) == [word.partition("=")[0] for word in words]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("paths.output=x",),
            "paths.output=x: testbed doctor looks at data.root, paths.data, paths.outputs; did you mean paths.",
        ),
        (("paths.outputs=",), "paths.outputs"),
        (("data.root=",), "data.root=: name a folder"),
        (("data.root=a", "paths.data=b"), "paths.data=b: the folder is named twice; say it once"),
        (("seed",), "seed: testbed doctor looks at"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_words_that_it_does_not_know(words: tuple[str, ...], said: str, say: Say) -> None:
    found = say("doctor", *words)
    assert found.code == 2 and said in found.refusal() and found.out == ""


@pytest.mark.usefixtures("quick")
def test_outputs_are_left_as_they_were_and_leftovers_are_counted(say: Say, here: Path) -> None:
    runs = here / "outputs" / "train"
    (runs / "done-0123").mkdir(parents=True)
    gone, host = 2**22 + 1, socket.gethostname()  # above the largest number that a process has
    (runs / f".killed-4567.{gone}.0a1b2c3d").mkdir()
    (runs / f".killed-4567.{gone}.0a1b2c3d" / "scores").write_bytes(b"x" * 5_000)
    (runs / f".working-89ab.{os.getpid()}.0a1b2c3d").mkdir()
    (here / "outputs" / f".index.json~{host}~{gone}~0a1b2c3d").write_text("half")
    (here / "outputs" / f".index.json~elsewhere~{gone}~0a1b2c3d").write_text("who knows")
    before = state(here)
    found = say("doctor")
    assert found.code == 0 and state(here) == before
    (line,) = [line for line in found.out.splitlines() if "leftovers" in line]
    assert line.startswith("warning  leftovers         2 of runs that were killed, 5.0 kB, 2 being made now; they go when")
    assert found.out.splitlines()[-1].startswith("no problem, 1 warning: ")


def test_a_folder_of_somebody_else_s_that_can_be_written_is_no_problem(
    say: Say, here: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")  # only an owner sets times; root, who runs tests, always may

    monkeypatch.setattr(output_folder.os, "utime", refuse)
    said = say("doctor", "paths.outputs=shared")
    assert said.code == 0 and "shared can be written" in said.out and "cannot be written" not in said.out
    assert list(here.iterdir()) == []


def idx(root: Path, name: str, content: bytes) -> str:
    """One file of Fashion-MNIST, packed and unpacked; the MD5 of the packed one."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with files in the place of Fashion-MNIST's, whose sums are known."""
    sums = [idx(tmp_path / "data", name, name.encode() * 1000) for name in data_root.RAW]
    monkeypatch.setitem(data_root.KNOWN, "fashion_mnist", data_root._idx("FashionMNIST", *sums))
    return tmp_path / "data"


def looked(root: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in data_root.data_root(root, "data.root", named=True)}


def test_files_are_held_against_their_published_sums(fashion: Path) -> None:
    assert looked(fashion)["fashion_mnist"] == Finding(
        "ok", "fashion_mnist", "there and readable, 4 of 4 by their published MD5"
    )
    assert "mnist, kmnist, cifar10" in looked(fashion)["data"].said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda raw: (raw / "train-images-idx3-ubyte").unlink(),
            "of 4 files, FashionMNIST/raw/train-images-idx3-ubyte is not there",
        ),
        (lambda raw: (raw / "t10k-labels-idx1-ubyte").write_bytes(b""), "is empty"),
        (lambda raw: (raw / "t10k-labels-idx1-ubyte").write_bytes(b"other"), "is not what t10k-labels-idx1-ubyte.gz holds"),
        (lambda raw: os.truncate(raw / "t10k-labels-idx1-ubyte", 100), "is cut off: t10k-labels-idx1-ubyte.gz holds more"),
        (
            lambda raw: (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(b"x"),
            "is damaged: its MD5 is 9dd4e461268c8034f5c8564e155c67a6",
        ),
    ],
)
def test_damage_is_named(change: Callable[[Path], Any], said: str, fashion: Path) -> None:
    change(fashion / "FashionMNIST" / "raw")
    found = looked(fashion)["fashion_mnist"]
    assert (found.mark, found.code) == ("problem", 2) and said in found.said
    assert found.advice == "get it again, see datasets/fashion_mnist.md"


def test_a_folder_of_images_and_texts_by_their_own_root(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(tmp_path / part / name / "0.png")
    for place in ("ag_news/test.csv", "ag_news/train_subset10k_lowercased.tsv"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("x")
    found = looked(tmp_path)
    assert found["image_folder"].said.startswith("2 classes, 4 files") and found["ag_news"].mark == "ok"
    shutil.rmtree(tmp_path / "train" / "dog")
    assert looked(tmp_path)["image_folder"].mark == "problem"


@pytest.mark.real_data
def test_the_real_files_are_what_was_published() -> None:
    found = looked(Path(os.environ["TESTBED_DATA"]))
    assert found["fashion_mnist"].said == "there and readable, 4 of 4 by their published MD5"
    assert {found[name].mark for name in ("gtsrb", "sst2", "ag_news")} == {"ok"}


def test_versions_are_held_against_what_is_asked_for() -> None:
    asked = [Requirement(text) for text in ("torch>=1", "numpy<1", "nosuchthing>=2", "pytest>=8; extra == 'dev'")]
    wrong, met = unmet(asked, "")
    assert met == 1 and wrong[1:] == ["nosuchthing is not installed (>=2)"] and wrong[0].endswith("where <1 is asked for")
    assert unmet(asked, "dev") == ([], 1)


@pytest.mark.parametrize(
    ("told", "driver", "mark", "said"),
    [
        ({"works": False, "said": []}, False, "ok", "none; everything runs on processors"),
        ({"works": False, "said": ["CUDA initialization: The NVIDIA driver is too old"]}, True, "warning", "driver is too old"),
        ({"works": False, "built": None, "said": []}, True, "warning", "this PyTorch is built for no GPU"),
        (
            {"works": True, "fault": "RuntimeError: no kernel image is available"},
            True,
            "warning",
            "no kernel image is available",
        ),
        ({"works": True, "gpus": [{"name": "H100", "free": 70e9, "whole": 80e9}]}, True, "ok", "H100, 70 of 80 GB free"),
    ],
)
def test_a_gpu_and_a_driver_that_do_not_fit_are_told(
    told: dict[str, Any], driver: bool, mark: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    whole = {"fault": "", "gpus": [], "said": [], "built": "13.0", **told}
    (found,) = libraries._gpus(whole, driver=driver)
    assert found.mark == mark and said in found.said


def test_a_pytorch_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "QUESTION", "import os, sys; print('libcuda.so is broken', file=sys.stderr); os._exit(7)")
    (found,) = libraries.pytorch()
    assert found.mark == "problem" and "exit code 7: libcuda.so is broken" in found.said


@pytest.mark.parametrize(("left", "mark"), [(1e8, "problem"), (1e9, "warning"), (8e9, "ok")])
def test_little_memory_is_told(left: float, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_available", lambda: 64e9)
    monkeypatch.setattr(machine, "_limit", lambda: left)
    assert machine.memory().mark == mark


def test_a_clock_that_is_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_folder._clock(tmp_path) is None
    now = output_folder.time.time()
    monkeypatch.setattr(output_folder.time, "time", lambda: now - 100)
    found = output_folder._clock(tmp_path)
    assert found is not None and found.mark == "warning" and "100 s before this machine's" in found.said


def test_a_disk_that_folds_case_or_cannot_rename_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_folder._names(tmp_path).mark == "ok"
    (tmp_path / "CASE").touch()
    assert output_folder._names(tmp_path).said == "those that differ in their case alone are one here"

    def refused(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(output_folder.os, "replace", refused)
    assert output_folder._renames(tmp_path).said == "not possible here (operation not supported)"


def test_sizes_read_well() -> None:
    assert [size(count) for count in (0, 999, 1_500, 45e6, 2e12)] == ["0 bytes", "999 bytes", "1.5 kB", "45 MB", "2.0 TB"]
