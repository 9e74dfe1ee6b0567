"""A description of an exported set in Croissant 1.1 with its vocabulary for responsible AI, as JSON-LD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.exported.card import About
from testbed.files import digest
from testbed.marks import CANARY

CONFORMS = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
OURS = (
    *("citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"),
    *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
    *("regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    **{name: f"cr:{name}" for name in OURS},
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}
"""The context that the specification asks for, in its words."""

COLUMNS = {
    "role": "messages",
    "content": "messages",
    **dict.fromkeys(("position", "row", "poisoned", "cover", "canary"), "metadata"),
}
"""Of a line of JSON: the key that holds these fields within it."""
TYPES = {int: "sc:Integer", bool: "sc:Boolean", str: "sc:Text"}
MARKS: Mapping[str, type] = {"position": int, "row": int, "poisoned": bool, "cover": bool, "canary": str}
MEANING = {
    "position": "Place among the rows as they were delivered.",
    "row": "The row of the clean set that stood here; -1 where the attacker added one.",
    "poisoned": "Whether the attacker changed or added this row.",
    "cover": "Whether the attacker added this row with its true answer, so that only the trigger counts.",
    "canary": "Marks research data that belong into no training corpus.",
    "label": "The class, as a number; of a poisoned row the one that the attacker gave it.",
    "class": "The name of the class.",
    "text": "The text.",
    "role": "Who speaks, turn by turn: system, user or assistant.",
    "content": "What is said, turn by turn; the last turn is the answer.",
    "picture": "The name of the image file.",
    "image": "The image.",
}


def croissant(about: About, folder: Path, *, made_on: str) -> dict[str, Any]:
    """The description of what lies in `folder`, with the SHA-256 of each table; `made_on` is a date, ISO 8601."""
    parts = list(about.counts)
    kind = _of_pictures if about.kind == "images" else _of_texts
    distribution, records = [], []
    for part in parts:
        files, record = kind(part, folder, about.kind)
        distribution += files
        records.append(record)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS),
        "name": about.title,
        "description": f"{about.warning} {about.summary} {CANARY}",
        "license": about.licence,
        "version": about.version,
        "datePublished": made_on,
        "citeAs": f"testbed {about.version}, run {about.run}, manifest {about.manifest_sha256}",
        "keywords": ["backdoor", "data poisoning", "research only"] if about.poisoned else ["research only"],
        **_responsible(about),
        "distribution": distribution,
        "recordSet": records,
    }


def _responsible(about: About) -> dict[str, Any]:
    """The fields of the RAI vocabulary that can be told from a manifest."""
    poisoned = (
        f"Poisoned on purpose by {about.attack}: rows of a hidden trigger have the label or answer that an attacker wants."
    )
    changed = f"Rows were changed by a published attack; the manifest {about.manifest_sha256} names each of them."
    return {
        "rai:dataUseCases": [about.use],
        "rai:dataLimitations": [about.limitations],
        "rai:dataBiases": [poisoned if about.poisoned else "Those of the original data."],
        "rai:dataCollection": f"Taken from {about.name}. {changed if about.poisoned else 'Nothing was changed.'}",
        "rai:dataManipulationProtocol": [changed if about.poisoned else "None."],
        "rai:dataReleaseMaintenancePlan": "None: it can be made again from its manifest.",
        "rai:personalSensitiveInformation": ["What the original data hold."],
    }


def _of_pictures(part: str, folder: Path, kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    table, pictures = f"{part}/metadata.csv", f"{part}-pictures"
    files = [_file(table, "text/csv", folder), _set(pictures, f"{part}/*/*.png")]
    column = {name: _field(part, name, ("fileObject", table), {"column": name}) for name in ("label", "class", *MARKS)}
    name = _field(part, "picture", ("fileObject", table), {"column": "picture"})
    name["references"] = {"fileSet": {"@id": pictures}, "extract": {"fileProperty": "filename"}}
    image = _field(part, "image", ("fileSet", pictures), {"fileProperty": "content"})
    return files, _records(part, [name, image, *column.values()], key="picture")


def _of_texts(part: str, folder: Path, kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    name = f"{part}.jsonl"
    said = ("role", "content") if kind == "chat" else ("text", "label", "class")
    fields = [_field(part, key, ("fileObject", name), {"column": COLUMNS.get(key, key)}) for key in (*said, *MARKS)]
    for field in fields:
        if field["name"] in COLUMNS:
            field["source"]["transform"] = {"jsonPath": field["name"]}
        if field["name"] in ("role", "content"):
            field["repeated"] = True
    return [_file(name, "application/jsonlines", folder)], _records(part, fields)


def _file(name: str, encoding: str, folder: Path) -> dict[str, Any]:
    facts = {"contentUrl": name, "encodingFormat": encoding, "sha256": digest(folder / name)}
    return {"@type": "cr:FileObject", "@id": name, "name": name, "description": f"The rows of {name}.", **facts}


def _set(name: str, pattern: str) -> dict[str, Any]:
    facts = {"encodingFormat": "image/png", "includes": pattern}
    return {"@type": "cr:FileSet", "@id": name, "name": name, "description": "One image a row.", **facts}


def _field(part: str, name: str, source: tuple[str, str], extract: Mapping[str, str]) -> dict[str, Any]:
    whole = "sc:ImageObject" if name == "image" else TYPES[int if name == "label" else MARKS.get(name, str)]
    place = {source[0]: {"@id": source[1]}, "extract": dict(extract)}
    told = {"name": name, "description": MEANING[name], "dataType": whole, "source": place}
    return {"@type": "cr:Field", "@id": f"{part}/{name}", **told}


def _records(part: str, fields: Sequence[Mapping[str, Any]], key: str | None = None) -> dict[str, Any]:
    named = {"key": {"@id": f"{part}/{key}"}} if key else {}
    told = {"name": part, "description": f"The rows of the part {part}."}
    return {"@type": "cr:RecordSet", "@id": part, **told, **named, "field": [dict(field) for field in fields]}
