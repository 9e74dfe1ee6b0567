"""A testbed for data poisoning and backdoors: attack, train, detect, defend and compare."""

__version__ = "0.1.0"
