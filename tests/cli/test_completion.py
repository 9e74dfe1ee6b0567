"""TAB completes verbs, groups, options and keys in a real shell, fast enough to be used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed import cli
from testbed.launcher import completion

Say = Callable[..., Any]
PRESS_TAB = """
eval "$(testbed -sc install=bash)"
press_tab() {
    COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
    COMP_WORDS=($1); [[ $1 == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    $(complete -p testbed | sed -E 's/.* -F ([^ ]+) .*/\\1/')
    echo "${COMPREPLY[@]}"
}
press_tab "testbed det"
press_tab "testbed train attack=ble"
press_tab "testbed train attack=blended attack.poi"
press_tab "testbed train --config-dir mine defence=mi"
eval "$(testbed -sc uninstall=bash)"
complete -p testbed
"""


@pytest.fixture
def mine(here: Path) -> Path:
    """A folder of configuration with one defence of the user's own."""
    folder = here / "mine"
    (folder / "defence").mkdir(parents=True)
    (folder / "defence" / "mine.yaml").write_text("# Mine.\n_target_: mine.MyDefence\nstrength: 2\n")
    return folder


@pytest.mark.parametrize(
    ("line", "some", "absent"),
    [
        ("testbed ", ["train", "detect", "list"], ["attack="]),
        ("testbed re", ["report"], ["train"]),
        ("testbed train ", ["attack=", "attack.", "defence=", "defence/", "seed="], ["train", "hydra.", "defence"]),
        ("testbed train attack=", ["attack=badnets", "attack=none"], ["badnets"]),
        ("testbed train attack=bad", ["attack=badnets"], ["attack=none"]),
        ("testbed train attack=blended attack.trigger.al", ["attack.trigger.alpha="], []),
        ("testbed train attack.poison_rate=", ["attack.poison_rate=0.05"], []),
        ("testbed train data.mean=", [], ["data.mean=0="]),
        ("testbed train -m attack=none,ble", ["attack=none,blended"], ["attack=blended"]),
        ("testbed train attack=none,badnets seed=0,1 tra", ["trainer=", "trainer."], []),
        ("testbed train defence=filter defence/rule=f", ["defence/rule=fixed_fraction"], ["defence/rule=published"]),
        ("testbed train defense=fine_t", ["defense=fine_tuning"], ["defence=fine_tuning"]),
        ("testbed --debug detect -m detector=st", ["detector=strip"], []),
        ("testbed train --config-dir mine defence=mi", ["defence=mine"], ["defence=none"]),
        ("testbed train --config-dir=mine defence=mine defence.st", ["defence.strength="], []),
        ("testbed train --conf", ["--config-dir"], ["--help"]),
        ("testbed train --config-dir mi", [], ["mine"]),
        ("testbed train --cfg job attack=no", ["attack=none"], []),
        ("testbed list det", ["detector"], ["defence"]),
        ("testbed trian attack=", [], ["attack=badnets"]),
        ("testbed train attack=nonsense se", [], ["seed="]),
        ("testbed train [ se", [], ["seed="]),
    ],
)
def test_what_the_last_word_may_become(
    *, line: str, some: list[str], absent: list[str], mine: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line + "forgotten")
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    for shell in ("bash", "fish", "zsh"):
        said = say("-sc", f"query={shell}")
        names = said.out.split()
        assert (said.code, said.err) == (0, "")
        assert set(some) <= set(names)
        assert not set(absent) & set(names)
        assert some or not names
    assert os.environ["COMP_LINE"] == line + "forgotten"


@pytest.mark.parametrize("line", ["testbed tra", "testbed train attack=bad", "testbed train attack=badnets attack.poi"])
def test_an_answer_costs_less_than_a_second(line: str, spawn: Say) -> None:
    said = spawn("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("heavy:\n")
    assert said.out != "heavy:\n"
    assert said.seconds < 1


def test_a_real_bash_completes(mine: Path, environment: dict[str, str]) -> None:
    program = mine / "bin" / "testbed"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom testbed.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    search = {**environment, "PATH": f"{program.parent}{os.pathsep}{environment['PATH']}"}
    finished = subprocess.run(
        ["bash", "-c", PRESS_TAB], cwd=mine.parent, env=search, capture_output=True, text=True, check=False
    )
    assert finished.stdout.splitlines() == ["detect", "attack=blended", "attack.poison_rate=", "defence=mine"]
    assert "testbed: no completion specification" in finished.stderr


def test_other_shells_are_served_and_unknown_ones_named(say: Say) -> None:
    assert "complete -c testbed" in say("-sc", "install=fish").out
    assert "hydra_bash_completion testbed" in say("-sc", "install=zsh").out
    for action, hint in {"instal=bash": "install", "install=bsh": "bash", "install": "bash", "query=": "bash"}.items():
        said = say("-sc", action)
        assert said.code == 2
        assert hint in said.refusal()


def test_every_flag_is_offered() -> None:
    assert set(completion.FLAGS) == set(cli.FLAGS) - {"--shell-completion"}
