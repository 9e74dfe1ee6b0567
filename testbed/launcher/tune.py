"""`testbed tune`: trials one after the other, each kept as soon as it has ended, and the best of them as a method's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.launcher.compose import register
from testbed.launcher.search import SearchPath
from testbed.launcher.tuning import Tuning, tuning
from testbed.words import Refused


def tune(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Search: 0 if there is a best trial and none failed, 1 if one failed or none was scored, 130 and 143 where it was ended.

    Raises:
        Refused: a name, a value or a range that cannot be, or a study that was begun otherwise; nothing was run.
    """
    for flag in ("--multirun", "--cfg"):
        if flag in flags:
            raise Refused(f"{flag}: testbed tune has no such option; whatever has a range is searched")
    register(search)
    asked = tuning(words, search)
    if "--dry-run" in flags:
        from testbed.launcher.tuned import print_plan

        print_plan(asked)
        return 0
    return _searched(asked, ("testbed", "tune", *words), search, debug="--debug" in flags)


def _searched(asked: Tuning, command: tuple[str, ...], search: SearchPath, *, debug: bool) -> int:
    from testbed.launcher.job import require_writable
    from testbed.launcher.study import opened
    from testbed.launcher.trial import Trials
    from testbed.launcher.tuned import head, print_study, told, write_best

    require_writable(str(asked.outputs))
    trials = Trials(asked, command, search, debug)
    with opened(asked.folder, asked.dimensions, asked.declared, asked.direction) as study:
        interrupted, done = study.close_interrupted(), study.finished()
        _require_same_code(asked, [run for point in done for run in point.verdict.runs])
        print("\n".join(head(asked, study, interrupted)), flush=True)
        while len(done) < study.total:
            trial, chosen = study.ask()
            try:
                verdict = trials.verdict(chosen)
            except BaseException:  # whatever ends it: this trial has not been, and is asked for again
                study.close_interrupted()
                raise
            study.tell(trial, verdict)
            done = study.finished()
            print(told(done[-1], study), flush=True)
        print_study(asked, study)
        write_best(asked, study, command, search)
        failed = any(point.verdict.status in ("failed", "timeout") for point in done)
        return 1 if failed or study.best() is None else 0


def _require_same_code(asked: Tuning, runs: Sequence[str]) -> None:
    """Raises `Refused` where the trials that are done were run by other code: scores of two kinds are not compared."""
    from testbed.record import changed, facts

    seen: list[Mapping[str, str]] = []
    for run in dict.fromkeys(runs):
        sources = (facts(Path(asked.outputs, run)) or {}).get("sources", {})
        if sources in seen:
            continue
        seen.append(sources)
        if what := changed(sources):
            raise Refused(f"study={asked.study}: {what} changed since its trials were run; say study=NAME to begin another")
