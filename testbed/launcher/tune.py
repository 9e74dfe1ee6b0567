"""`testbed tune`: trials one after the other, each kept as soon as it has ended, and the best of them as a method's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.launcher.compose import register
from testbed.launcher.search import SearchPath
from testbed.launcher.tuning import Tuning, composed_now, tuning
from testbed.words import Refused


def tune(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Search: 0 if there is a best trial and none failed, 1 if one failed or none was scored, 130 and 143 where it was ended.

    Raises:
        Refused: a name, a value or a range that cannot be, or a study that was begun otherwise; nothing was run.
    """
    if "--cfg" in flags:
        raise Refused("--cfg: testbed tune has no such option; say --dry-run to see what would be run")
    register(search)
    asked = tuning(words, search)
    if "--dry-run" in flags:
        from testbed.launcher.tuned import print_plan

        print_plan(asked)
        return 0
    return _searched(asked, words, flags, search)


def _searched(asked: Tuning, words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    from testbed.launcher.declared import declared, require_same_code, stamp
    from testbed.launcher.job import require_writable
    from testbed.launcher.study import opened
    from testbed.launcher.trial import Trials
    from testbed.launcher.tuned import head, print_study, told, write_best
    from testbed.tidy import tidy

    require_writable(str(asked.outputs))
    tidy(asked.outputs)
    place = ("--config-dir", flags["--config-dir"]) if "--config-dir" in flags else ()
    command = ("testbed", "tune", *words, *place)
    trials = Trials(asked, command, search, "--debug" in flags)
    with opened(asked.folder, asked.dimensions, declared(asked), asked.direction) as study:
        interrupted, done = study.close_interrupted(), study.finished()
        require_same_code(asked.study, [asked.outputs / run for point in done for run in point.verdict.runs])
        print("\n".join(head(asked, study, interrupted)), flush=True)
        while len(done) < study.total:
            if asked.files != stamp(search):  # edited while this was running
                asked = composed_now(asked, search)
                study.require_same(declared(asked))
            trial, chosen = study.ask()
            try:
                verdict = trials.verdict(chosen, study.declared["contents"])
            except BaseException:  # whatever ends it: this trial has not been, and is asked for again
                study.close_interrupted()
                raise
            study.tell(trial, verdict)
            done = study.finished()
            print(told(done[-1], study), flush=True)
        print_study(asked, study)
        write_best(asked, study, command, place)
        failed = any(point.verdict.status in ("failed", "timeout") for point in done)
        return 1 if failed or study.best() is None else 0
