"""A suite of few short runs on digits, as a user writes one."""

from __future__ import annotations


def small_suite(methods: str, *, seeds: int = 1) -> str:
    """The YAML of a suite with these methods, each written as 'name: [words]'."""
    return f"""# Small.
verb: train
clean_budget: 14 rows a class
seeds: {seeds}
settings: [trainer.max_epochs=1, trainer.batch_size=256, model.network.width=2]
worlds: {{digits: [data=digits]}}
attacks: {{badnets: [attack=badnets]}}
methods: {{{methods}}}
"""
