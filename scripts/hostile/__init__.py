"""A corpus of hostile files: each tries to make an empty marker file, to open a connection to this machine, or to use it up."""
