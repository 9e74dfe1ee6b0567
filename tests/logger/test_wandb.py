"""W&B as a view: what is kept offline, what is sent, and that nothing it does costs a run its results or five seconds."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.api import Invalid
from testbed.files import read_json
from testbed.logger.wandb import WandbLogger

from .kept import kept_rows, kept_run, kept_summary, records, values

CONFIGURATION = Path(__file__).resolve().parents[2] / "conf" / "logger" / "wandb.yaml"


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_offline_needs_no_account_and_writes_below_the_outputs_only(run, outputs, stranger, capfd, tmp_path) -> None:
    folder = run()
    before, elsewhere = digest(folder), {path for path in tmp_path.rglob("*") if outputs not in path.parents}
    WandbLogger().show(folder, outputs)
    assert digest(folder) == before
    assert {path for path in tmp_path.rglob("*") if outputs not in path.parents} == elsewhere
    assert {path.name for path in outputs.iterdir()} == {"train", "victim", "wandb"}
    assert capfd.readouterr() == ("", "")


def test_offline_knocks_at_no_door(run, outputs, cloud) -> None:
    server = cloud()
    WandbLogger().show(run(), outputs)
    assert kept_run(outputs).run_id and server.requests == 0


def test_a_run_is_named_grouped_and_configured(run, outputs) -> None:
    folder = run()
    WandbLogger(project="mine", entity="we").show(folder, outputs)
    kept = kept_run(outputs)
    assert (kept.display_name, kept.run_group, kept.job_type) == ("badnets-none-digits-s3", "badnets-none-digits", "train")
    assert (kept.project, kept.entity, kept.run_id) == ("mine", "we", f"train-{read_json(folder / 'run.json')['key']}")
    config, resolved = values(kept.config.update), yaml.safe_load((folder / "config.yaml").read_text())
    flat = {"attack_name": "badnets", "defence_name": "none", "data_name": "digits", "model_name": "small_cnn"}
    assert flat.items() <= config.items()
    assert (config["seed"], config["poison_rate"], config["verb"]) == (3, 0.05, "train")
    assert config["config"] == {name: resolved[name] for name in ("seed", "attack")} | {
        "data": {**resolved["data"], "root": "cats"}
    }
    assert not {"attack", "defence", "data", "model"} & set(config)
    text = b"".join(record.SerializeToString() for record in records(outputs))
    assert b"/home/somebody" not in text and socket.gethostname().encode() + b'"' not in text and kept.host == "withheld"


def test_a_sweep_is_a_group(run, outputs) -> None:
    WandbLogger().show(run(group="sweep-1234"), outputs)
    assert kept_run(outputs).run_group == "sweep-1234"


def test_the_summary_is_the_result(run, outputs) -> None:
    folder = run()
    WandbLogger().show(folder, outputs)
    result, summary = read_json(folder / "result.json"), kept_summary(outputs)
    counts = {f"n_{name}": count for name, count in result["counts"].items()}
    assert "roc/scores_table/path" in summary  # from where W&B draws the chart
    summary = {name: value for name, value in summary.items() if not name.startswith("roc/")}
    assert {name: summary[name] for name in result["measures"]} == result["measures"]
    assert summary == {**result["measures"], **counts, "status": "done"}


def test_curves_pictures_roc_and_manifest_are_shown(run, outputs) -> None:
    WandbLogger().show(run(), outputs)
    *curve, last = ({key: value for key, value in row.items() if key[0] != "_"} for row in kept_rows(outputs))
    assert curve == [
        {"epoch": 1.0, "undefended/loss": 2.0, "clean_twin/loss": 2.0},
        {"epoch": 2.0, "undefended/loss": 0.5, "clean_twin/loss": 0.4},
        {"epoch": 3.0, "undefended/loss": 0.25},
    ]
    steps = {record.metric.glob_name: record.metric.step_metric for record in records(outputs) if record.HasField("metric")}
    assert steps["undefended*"] == steps["clean_twin*"] == "epoch"
    kept = next(outputs.glob("wandb/offline-run-*")) / "files"
    assert (kept / last["figure/success/path"]).read_bytes()[:4] == b"\x89PNG"
    table = json.loads((kept / last["roc/scores_table/path"]).read_text())
    assert table["columns"] == ["false_positive_rate", "true_positive_rate"]
    assert (table["data"][0], table["data"][-1]) == ([0.0, 0.0], [1.0, 1.0])
    artifacts = {record.artifact.type: record.artifact for record in records(outputs) if record.HasField("artifact")}
    assert [entry.path for entry in artifacts["poison-manifest"].manifest.contents] == ["manifest.json"]
    assert set(artifacts) == {"poison-manifest", "run_table"}


def test_neither_the_manifest_nor_a_measure_tells_where_files_lie(run, outputs) -> None:
    folder = run(place="/home/somebody/private rows/a.csv", worst_case="trigger of /home/somebody/b.png")
    WandbLogger().show(folder, outputs)
    assert kept_summary(outputs)["worst_case"] == "trigger of b.png"
    (staged,) = (
        record.artifact for record in records(outputs) if record.HasField("artifact") and "poison" in record.artifact.type
    )
    (entry,) = staged.manifest.contents
    assert json.loads(Path(entry.local_path).read_text()) == {"indices": [4, 7], "backdoored": True, "source": "a.csv"}
    assert b"/home/somebody" not in b"".join(record.SerializeToString() for record in records(outputs))


def test_a_failed_run_says_so(run, outputs) -> None:
    WandbLogger().show(run(outcome="failed"), outputs)
    summary = kept_summary(outputs)
    assert (summary["status"], summary["reason"]) == ("failed", "why")
    assert [record.exit.exit_code for record in records(outputs) if record.HasField("exit")] == [1]


def test_two_runs_of_a_process_are_two_runs(run, outputs) -> None:
    one, other = run(seed=3), run(seed=4)
    WandbLogger().show(one, outputs)
    WandbLogger().show(other, outputs)
    names = {kept_run(outputs, f"train-{read_json(folder / 'run.json')['key']}").display_name for folder in (one, other)}
    assert names == {"badnets-none-digits-s3", "badnets-none-digits-s4"}


def test_shown_twice_it_is_the_same_run(run, outputs) -> None:
    folder = run()
    WandbLogger().show(folder, outputs)
    first = kept_run(outputs).run_id
    WandbLogger().show(folder, outputs)
    assert kept_run(outputs).run_id == first  # and `records` found one folder, not two


def test_a_sweep_agent_names_its_run(run, outputs, cloud, monkeypatch) -> None:
    server = cloud()
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents1")
    WandbLogger(mode="online", patience=20).show(run(), outputs)
    assert {(sent["name"], sent["sweep"]) for sent in server.variables("UpsertBucket") if sent["sweep"]} == {
        ("agents1", "sweep1")
    }


def test_online_everything_arrives_and_nothing_else(run, outputs, cloud, capfd) -> None:
    server, folder = cloud(), run()
    WandbLogger(mode="online", patience=20).show(folder, outputs)
    assert capfd.readouterr() == ("", "")
    first, identifier = server.variables("UpsertBucket")[0], f"train-{read_json(folder / 'run.json')['key']}"
    sent = (first["name"], first["displayName"], first["groupName"], first["jobType"], first["project"])
    assert sent == (identifier, "badnets-none-digits-s3", "badnets-none-digits", "train", "testbed")
    assert json.loads(first["config"])["attack_name"]["value"] == "badnets"
    assert [row.get("undefended/loss") for _, row in sorted(server.rows[identifier].items())] == [2.0, 0.5, 0.25, None]
    summary = json.loads(server.files[f"{identifier}/wandb-summary.json"])
    measures = read_json(folder / "result.json")["measures"]
    assert {name: summary.get(name) for name in measures} == measures  # the server is not told what is undefined
    manifest = f"manifest-{read_json(folder / 'run.json')['key']}/manifest.json"
    assert server.files[manifest] == (folder / "manifest.json").read_bytes()
    endings = {".json", ".yaml", ".png", ""}
    assert {Path(name).suffix for name in server.files} == endings and len(server.files) == 7
    everything = b"".join(server.files.values()) + json.dumps([server.operations, server.rows]).encode()
    assert (outputs / "victim" / "aa" / "model.safetensors").read_bytes() not in everything
    assert b"0.123456789" not in everything and (folder / "answers.safetensors").read_bytes()[-8:] not in everything
    WandbLogger(mode="online", patience=20).show(folder, outputs)
    assert {name: sorted(rows) for name, rows in server.rows.items()} == {identifier: [0, 1, 2, 3]}  # replaced, not added


def closed() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(params=["closed", "refuses", "swallows", "dies", "loses", "no key"])
def patience(request, cloud, monkeypatch) -> float:
    """Something wrong between here and the server, and how long to wait for it."""
    cloud(request.param if request.param in ("refuses", "swallows", "dies", "loses") else "answers")
    if request.param == "closed":
        monkeypatch.setenv("WANDB_BASE_URL", closed())
    if request.param == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    return {"swallows": 1.0, "dies": 2.5}.get(request.param, 3.5)


def test_trouble_with_the_network_costs_a_line_and_less_than_five_seconds(patience, run, outputs, capfd) -> None:
    folder = run()
    before = digest(folder)
    start = time.monotonic()
    WandbLogger(mode="online", patience=patience).show(folder, outputs)
    assert time.monotonic() - start < 5
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "kept offline" in err and "wandb sync" in err, err
    assert digest(folder) == before
    assert kept_summary(outputs)["status"] == "done" and not list(outputs.rglob("*.synced"))


def test_the_client_is_imported_late_and_a_black_hole_changes_no_exit_code(run, outputs, cloud) -> None:
    cloud("swallows")
    program = f"""
import sys
from pathlib import Path
from testbed.logger.wandb import WandbLogger
if "wandb" in sys.modules:
    sys.exit("imported too early")
WandbLogger(mode="online", patience=0.5).show(Path({str(run())!r}), Path({str(outputs)!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "kept offline" in done.stderr


def test_a_folder_that_cannot_be_made_costs_a_line(run, outputs, capfd) -> None:
    folder = run()
    (outputs / "wandb").write_text("a file in the way")
    WandbLogger().show(folder, outputs)
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "not shown" in err and str(folder) in err


def test_a_full_disk_costs_a_line(run, outputs, capfd, monkeypatch) -> None:
    monkeypatch.setattr("testbed.logger.client.LEAST_FREE", 2**62)  # no disk is that large
    WandbLogger().show(run(), outputs)
    assert "no space left" in capfd.readouterr().err


def test_disabled_leaves_no_trace(run, outputs) -> None:
    WandbLogger(mode="disabled").show(run(), outputs)
    assert not (outputs / "wandb").exists()


@pytest.mark.parametrize(("parameter", "value"), [("mode", "onlin"), ("patience", 0.0), ("patience", float("nan"))])
def test_what_cannot_work_is_refused_at_once(parameter: str, value: Any) -> None:
    with pytest.raises(Invalid, match=parameter):
        WandbLogger(**{parameter: value})


def test_the_configuration_is_the_default() -> None:
    parameters = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    assert parameters.pop("_target_") == "testbed.logger.wandb.WandbLogger"
    assert parameters == vars(WandbLogger())


def test_a_run_that_did_nothing_new_is_not_shown_anew(run, outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run()
    WandbLogger().show(folder, outputs)
    monkeypatch.setattr("testbed.logger.wandb.keep", lambda *_: pytest.fail("shown again"))
    WandbLogger().show(folder, outputs)
