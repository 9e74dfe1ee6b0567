"""The reading process holds even code that has broken out of the reader, with and without what a kernel may lack."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.error import Invalid
from testbed.untrusted import header, landlock, limits, opened, process, seccomp
from testbed.words import Refused

HERE = Path(__file__).resolve().parent
START = (
    "import sys; sys.path[len(sys.path):] = [*sys.argv[1:], {here!r}]; import breakout; "
    "from testbed.untrusted import child, landlock, sandbox, seccomp; "
    "breakout.AIM.update({aim!r}); child.read = breakout.{name}; {lacking}; child.main()"
)
UNCONFINED = "sandbox.confine = lambda *_: 'nothing'"
NO_LANDLOCK = "landlock.CREATE_RULESET = 9999"
NO_FILTER = "seccomp.DENIED = {}"
NO_NAMESPACES = "sandbox.alone = lambda: sandbox.Alone(False, 'operation not permitted')"
MEMORY = 64 << 20
VISIBLE = ("read", "list", "password file", "tcp", "local socket", "abstract socket", "fork", "listen", "end the parent")
VISIBLE += ("mode", "times", "owner", "length", "parent's limits", "parent's priority", "thread of the parent")


def has_landlock() -> bool:
    try:
        return landlock.version() >= 4
    except landlock.Absent:
        return False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "w.safetensors"
    with place.open("wb") as written:
        header.write(written, {"w": ("U8", (1,), 1)}, [b"x"])
    return place


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`broken("read", NO_LANDLOCK)`: from now on the reading process runs that instead of its reader, on such a kernel."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o600)
    os.utime(folder / "secret", (1, 1))
    monkeypatch.setenv("TESTBED_SECRET", "secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        monkeypatch.chdir(folder)
        local.bind("local")
        abstract.bind(f"\0testbed-{os.getpid()}")
        for end in (local, abstract):
            end.listen()
        aim = {"folder": str(folder), "port": door.getsockname()[1], "parent": os.getpid(), "memory": MEMORY}

        def breaking(name: str, *lacking: str, **also: object) -> None:
            words = START.format(here=str(HERE), aim={**aim, **also}, name=name, lacking="; ".join(lacking) or "pass")
            monkeypatch.setattr(process, "START", words)

        yield breaking
        assert sorted(path.name for path in folder.iterdir()) == ["local", "secret"]
        assert (folder / "secret").read_text() == "secret"
        door.setblocking(False)
        if getattr(breaking, "knocks", False):
            door.accept()[0].close()
        with pytest.raises(BlockingIOError):
            door.accept()


@pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock that stops TCP")
@pytest.mark.parametrize("lacking", [(), (NO_NAMESPACES,)], ids=["all", "no namespaces"])
def test_nothing_works_that_code_inside_would_try(broken: Callable[..., None], file: Path, lacking: tuple[str, ...]) -> None:
    broken("read", *lacking)
    found = opened(file, memory=MEMORY)
    assert [name for name, came in found.facts.items() if came == "done"] == []
    assert found.facts["memory"] == "MemoryError" and found.facts["tcp"] == "PermissionError"
    assert found.sandbox == f"landlock {landlock.version()}, no network, {MEMORY / limits.GIB:.3g} GiB"
    wanted = ("mode", "times", "owner", "attributes", "parent's priority", "shared memory")
    assert {found.facts[name] for name in wanted} == {"PermissionError"}
    assert {found.facts["parent's limits"], found.facts["thread of the parent"]} == {"PermissionError"}


def test_the_same_attempts_work_in_a_process_that_is_not_confined(broken: Callable[..., None], file: Path) -> None:
    broken("read", UNCONFINED, NO_NAMESPACES, only=VISIBLE)
    broken.knocks = True  # type: ignore[attr-defined]
    found = opened(file, memory=MEMORY)
    assert found.facts == dict.fromkeys(VISIBLE, "done") and found.sandbox == "nothing"


@pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock that stops TCP")
def test_without_a_filter_of_system_calls_what_is_left_is_said(broken: Callable[..., None], file: Path) -> None:
    broken("read", NO_FILTER, NO_NAMESPACES)
    found = opened(file, memory=MEMORY)
    assert "no TCP, but UDP and local sockets are open" in found.sandbox and "operation not permitted" in found.sandbox
    assert "modes, owners, times and attributes of files can be changed" in found.sandbox
    assert {"write", "read", "list", "remove", "tcp", "listen", "start", "become"}.isdisjoint(
        name for name, came in found.facts.items() if came == "done"
    )


def test_a_kernel_without_landlock_is_named(broken: Callable[..., None], file: Path) -> None:
    broken("pretend", NO_LANDLOCK)
    with pytest.raises(Refused, match="answered what it should not"):
        opened(file)
    process.START = process.START.replace("breakout.pretend", "child.read")
    found = opened(file)
    assert found.sandbox.startswith("none: Landlock: Function not implemented; ")


@pytest.mark.parametrize("lacking", [(), (NO_NAMESPACES,)], ids=["all", "no namespaces"])
def test_one_that_never_answers_is_ended_with_all_its_kin(
    broken: Callable[..., None], file: Path, lacking: tuple[str, ...]
) -> None:
    broken("linger", *lacking)
    began = time.monotonic()
    with pytest.raises(Invalid, match=r"was ended after 0\.3 s; give a smaller file, or more time \(limits\.seconds\)"):
        opened(file, seconds=0.3)
    assert time.monotonic() - began < 10
    until = time.monotonic() + 5
    while (left := _named(file.parent)) and time.monotonic() < until:
        time.sleep(0.01)
    assert left == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("crash", "ended by SIGSEGV"), ("talk", "said more than"), ("pretend", "answered what it should not")],
)
def test_one_that_misbehaves_is_refused(broken: Callable[..., None], file: Path, name: str, words: str) -> None:
    broken(name)
    with pytest.raises(Refused, match=words) as refusal:
        opened(file)
    assert refusal.value.code == 3


def test_what_it_hands_back_is_not_believed(broken: Callable[..., None], file: Path) -> None:
    broken("lie")
    with pytest.raises(Invalid, match="truncated"):
        opened(file)


@pytest.mark.parametrize("machine", sorted(seccomp.DENIED))
def test_the_filter_jumps_where_it_means_to(machine: str) -> None:
    numbers = [*seccomp.DENIED[machine].values(), *seccomp.EVERYWHERE.values()]
    lines, own = seccomp.program(seccomp.MACHINES[machine], numbers, seccomp.LIMITS[machine]), seccomp.MACHINES[machine]
    decide = lambda call, kind=own, first=0: _run(lines, call, kind, first)  # noqa: E731
    assert {decide(number) for number in numbers} == {seccomp.ERROR | 1}
    assert {decide(number) for number in range(500) if number not in numbers} == {seccomp.ALLOW}
    assert decide(seccomp.X32 + 1) == seccomp.ERROR | 1
    assert decide(1, 0x40000003) == seccomp.END
    assert decide(1, first=7) == seccomp.ALLOW
    assert decide(seccomp.LIMITS[machine], first=7) == seccomp.ERROR | 1


def _run(lines: bytes, call: int, machine: int, first: int) -> int:
    """The kernel's rules for such a program, for one call with this first argument."""
    place, value = 0, 0
    while True:
        code, true, false, operand = (
            int.from_bytes(lines[8 * place + at : 8 * place + to], "little") for at, to in ((0, 2), (2, 3), (3, 4), (4, 8))
        )
        if code == seccomp.RETURN:
            return operand
        if code == seccomp.LOAD:
            value, jump = {seccomp.NUMBER: call, seccomp.MACHINE: machine, seccomp.FIRST: first}[operand], 0
        else:
            jump = true if (value == operand if code == seccomp.EQUAL else value >= operand) else false
        place += 1 + jump


def _named(folder: Path) -> list[str]:
    """Processes whose command line names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [path.parent.name] if str(folder).encode() in path.read_bytes() else []
    return found
