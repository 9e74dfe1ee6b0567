"""Optional libraries, imported in one place: transformers is an extra, and would take our folder `datasets` for its own."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from testbed.api import Invalid

READ = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""What is fetched of a model: settings, tokenizer, chat template and weights; neither code nor pickled files."""


@cache
def transformers() -> ModuleType:
    """The library, quiet and deaf to the network's progress bars.

    Raises:
        Invalid: the extra `lm` is not installed.
    """
    spec = find_spec("datasets")
    if spec is not None and spec.origin is None:
        sys.modules["datasets"] = None  # type: ignore[assignment]
    try:
        import transformers as library
    except ModuleNotFoundError as error:
        limit = f"language models need the extra `lm` ({error.name} is not installed)"
        raise Invalid("", None, limit, "pip install 'testbed[lm]'", component="model") from error
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


@cache
def snapshot(name: str, commit: str, *, download: bool) -> Path:
    """The folder where this machine keeps a model of the hub at this commit; without `download` no connection is opened.

    Raises:
        Exception: it is not here, or cannot be fetched; of what class, depends on the library's version.
    """
    transformers()  # silences the progress bars
    import huggingface_hub

    found = huggingface_hub.snapshot_download(name, revision=commit, local_files_only=not download, allow_patterns=list(READ))
    return Path(found)
