"""How large what a stranger made may be, part by part: far above what honest files need, far below what harms."""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

FILE = 16 * GIB
"""Bytes of a file that is read at all."""
MEMORY = 4 * GIB
"""Bytes that reading may take, beside the libraries."""
SECONDS = 60.0
"""How long reading may take, beside importing the libraries."""
MOST_MEMORY, MOST_SECONDS = 1 << 40, 86_400.0
"""The most that a caller may allow in place of these: a tebibyte, and a day."""
START = 120.0
"""How long importing the libraries may take, on a slow network file system say."""
HEADER = 32 * MIB
"""Bytes of a safetensors header: some 300,000 tensors."""
PROGRAM = 64 * MIB
"""Bytes of the pickle that names the tensors of a checkpoint."""
MEMBERS = 100_000
"""Members of an archive."""
TENSORS = 100_000
DIMENSIONS = 16
ELEMENTS = 1 << 48
"""One more than the numbers of a tensor, and than its bytes' offsets."""
NAME = 300
"""Characters of a tensor's name."""
CONFIGURATION = MIB
"""Bytes of a JSON file beside the weights."""
FACTS = MIB
"""Bytes of the plain data handed on, as JSON."""
NODES = 20_000
"""Values in the plain data handed on."""
DEPTH = 12
"""Lists and mappings inside one another."""
TEXT = 20_000
"""Characters of one string in the plain data."""
REPORT = 4 * MIB
"""Bytes of what the reading process reports beside the tensors."""
FOLDER = 1_000
"""Files in a folder."""

BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8},
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8},
}
"""The kinds of number that are read, by safetensors' names, and the bytes of each."""

TORCH = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32"},
    **{"U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}
"""torch's names for them."""
