"""MLflow: one run per state of the metrics, one child per rung. The only module that imports MLflow."""

import contextlib
import csv
import hashlib
import logging
import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 wait for minutes

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from bitladder.decision.results import Results, flat, read_results
from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.paths import COMPARISON, COMPARISON_SOCS, DECISION, PARAMS, RungFiles
from bitladder.records import Decision, Evaluation, Measurement, RungDecision, read_record
from bitladder.report.tables import INTERVALS
from bitladder.running import git
from bitladder.running.files import is_running

__all__ = ["track"]

DEFAULT_URI = "sqlite:///mlflow.db"

FINGERPRINT = "bitladder.fingerprint"

OWNER = "bitladder.owner"
"""Tag that says which process logs a run: `machine:pid`."""

ABANDONED_S = 600.0  # logging takes seconds: a run that is not finished after this is a killed one's

SETTLE_S = 1.0  # until a run that another began before this one is in the store too

WAIT_S = 60.0  # for another clone that logs the same

ALIAS = "chosen"

PLACES = {"verdict": "off_target", "target_verdict": "on_target", "gap_verdict": "gap"}
"""What a decision's verdicts are of, for tags: `goals.on_target` is `holds`, `fails` or `undecided`."""

SUMMARY = (COMPARISON, COMPARISON_SOCS, DECISION)


def track(params: Params) -> str:
    """Log this commit's metrics to MLflow, unless a finished run holds them already.

    The store is MLFLOW_TRACKING_URI, or a local sqlite file. Runs are found by a fingerprint of all that is logged,
    so the same metrics are never logged twice, whatever is rerun. A run is marked finished when it is whole; a half
    one that a killed process left is deleted, and logged anew. Where another clone logs the same at this moment, it is
    waited for.

    Returns: one line that says what was done. Raises UserError where the metrics are missing or the store is away.
    """
    results = read_results(params)
    fingerprint = _fingerprint(params)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    mlflow.set_tracking_uri(uri)
    try:
        _make_store(uri)
        return _track(params, results, fingerprint)
    except MlflowException as error:
        reason = _without_password(str(error).splitlines()[0][:300])
        raise UserError(f"the MLflow store did not take the metrics ({reason})") from None
    except SQLAlchemyError as error:
        reason = _without_password(str(error).splitlines()[0][:300])
        raise UserError(
            f"the MLflow store {_without_password(uri)} is damaged ({reason}); move it away, and `bitladder track`"
            " makes a new one"
        ) from None


def _make_store(uri: str) -> None:
    """Make a store in a file of its own where there is none, whole or not at all.

    MLflow builds its tables in dozens of steps; killed between two of them, it does not go on.
    """
    url = make_url(uri) if uri.startswith("sqlite:") else None
    if url is None or not url.database or Path(url.database).exists():
        return
    path = Path(url.database)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was first
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _track(params: Params, results: Results, fingerprint: str) -> str:
    client = MlflowClient()
    experiment = mlflow.set_experiment(params.track.experiment).experiment_id
    deadline = time.monotonic() + WAIT_S
    while other := _other_run(client, experiment, fingerprint):
        if other.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return f"MLflow: already there as run {other.info.run_name}; nothing logged"
        if time.monotonic() > deadline:
            raise UserError(f"another process ({other.data.tags[OWNER]}) has been logging the same to the MLflow store")
        time.sleep(1)

    decision = read_record(Decision, DECISION)
    if params.track.register_as and decision.chosen:
        _graph(decision.chosen)  # before anything is logged
    commit, changed = git.state()
    revision = commit or "none"
    name = f"{revision[:10]}{'-dirty' if changed else ''}"
    tags = {FINGERPRINT: fingerprint, OWNER: _OWN, "git.revision": revision, "git.dirty": str(bool(changed)).lower()}
    parent = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    settled = time.monotonic() + SETTLE_S
    # Here: what draws plots loads while others settle. By name: how the page looks is no reason to log anew
    page: str = resolve_name("bitladder.report.page:render")(params)
    time.sleep(max(0.0, settled - time.monotonic()))
    if _other_run(client, experiment, fingerprint, parent):  # two began at once: the first goes on
        client.delete_run(parent)
        return _track(params, results, fingerprint)
    tags = {"chosen": str(decision.chosen), "policy": decision.policy, "soc": params.target.soc}
    _log(client, parent, flat(params.model_dump()), _chosen_figures(decision), tags)
    client.set_tag(parent, "mlflow.note.content", decision.reason)
    client.log_text(parent, page, "report.html")
    for file in SUMMARY:
        client.log_artifact(parent, str(file))
    client.log_artifact(parent, str(PARAMS))
    for rung, record in results.evals.items():
        child = {"mlflow.parentRunId": parent, "git.revision": revision}
        run_id = client.create_run(experiment, run_name=f"{name} {rung}", tags=child).info.run_id
        _log_rung(client, run_id, rung, record, results.targets.get(rung), decision)
        if params.track.register_as and rung == decision.chosen:
            _register(client, run_id, rung, params.track.register_as, name)
        client.set_terminated(run_id)
    client.set_terminated(parent)  # last: a run that is finished is whole
    return f"MLflow: logged run {name} with {len(results.evals)} children"


def _other_run(client: MlflowClient, experiment: str, fingerprint: str, own: str | None = None) -> Run | None:
    """Find the run that holds these metrics, or that a live process began, before `own`, to log them to.

    Half runs that killed processes left are deleted.
    """
    finished = RunStatus.to_string(RunStatus.FINISHED)
    runs = client.search_runs([experiment], f"tags.`{FINGERPRINT}` = '{fingerprint}'")
    for run in sorted(runs, key=lambda run: (run.info.status != finished, run.info.start_time, run.info.run_id)):
        if run.info.status == finished:
            return run
        if run.info.run_id == own:
            return None
        if _is_live(run):
            return run
        for half in (*_children(client, experiment, run.info.run_id), run):
            client.delete_run(half.info.run_id)
    return None


def _is_live(run: Run) -> bool:
    """Whether another process may still log to a run. One on another machine is given ABANDONED_S."""
    owner = run.data.tags.get(OWNER, "")
    machine, _, pid = owner.rpartition(":")
    if not machine or owner == _OWN or time.time() - run.info.start_time / 1000 > ABANDONED_S:
        return False
    return machine != platform.node() or is_running(int(pid))


_OWN = f"{platform.node()}:{os.getpid()}"


def _children(client: MlflowClient, experiment: str, parent: str) -> list[Run]:
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"))


def _log_rung(
    client: MlflowClient,
    run_id: str,
    rung: str,
    off: Evaluation,
    on: Measurement | None,
    decision: Decision,
) -> None:
    there = on.model_dump(mode="json", exclude={"socs"}) if on else {}
    values = flat(there, "target.") | off.model_dump(mode="json")
    metrics = {key: value for key, value in values.items() if _is_number(value) and not key.endswith("_bits")}
    described = {key: str(value) for key, value in values.items() if key not in metrics and value is not None}
    metrics |= _chances(decision.of(rung))
    _log(client, run_id, {"rung": rung, **described}, metrics, _rung_tags(decision, rung))
    history = RungFiles(rung).qat_history
    if history.exists():
        with history.open(newline="", encoding="utf-8") as file:
            steps = [
                Metric(f"qat.{key}", float(value), 0, int(row["epoch"]))
                for row in csv.DictReader(file)
                for key, value in row.items()
                if key != "epoch" and value
            ]
        client.log_batch(run_id, metrics=steps)


def _chosen_figures(decision: Decision) -> dict[str, float]:
    """Give the chosen rung's figures for the parent run, so that parents compare as rungs do."""
    entry = decision.of(decision.chosen)
    measured = entry.measured.model_dump() if entry else {}
    return {f"chosen.{key}": value for key, value in measured.items() if _is_number(value)}


def _rung_tags(decision: Decision, rung: str) -> dict[str, str]:
    """Say of a rung's run whether it was chosen, its precision, and what came of it."""
    entry = decision.of(rung)
    tags = {"chosen": str(rung == decision.chosen).lower()}
    if entry:
        tags |= {"precision": entry.precision, "pareto": str(entry.pareto).lower(), "verdict": entry.outcome}
        for key in ("verdict", "target_verdict", "gap_verdict"):
            if found := getattr(entry.measured, key):
                tags[f"goals.{PLACES[key]}"] = found
    return tags


def _chances(entry: RungDecision | None) -> dict[str, float]:
    """Give how far a rung's figures may be chance, by the names that metrics/decision.json has for them."""
    found = {key: getattr(entry.measured, key) for key in INTERVALS} if entry else {}
    return {key: value for key, value in found.items() if _is_number(value)}


def _graph(rung: str) -> Path:
    """Find a rung's ONNX. Raise UserError where it is not on this machine."""
    path = RungFiles(rung).model
    if not path.exists():
        raise UserError(f"{path}: not here, and track.register_as asks for it; run `dvc pull {path}`")
    return path


def _register(client: MlflowClient, run_id: str, rung: str, model: str, revision: str) -> None:
    """Register the chosen rung's ONNX as a version of a model, and point the alias `chosen` at it."""
    client.log_artifact(run_id, str(_graph(rung)), "model")
    with contextlib.suppress(MlflowException):  # it is there already, or the next call says what is wrong
        client.create_registered_model(model)
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    version = client.create_model_version(model, source, run_id, tags={"rung": rung, "revision": revision})
    client.set_registered_model_alias(model, ALIAS, version.version)


def _log(client: MlflowClient, run_id: str, params: Mapping, metrics: Mapping, tags: Mapping) -> None:
    client.log_batch(
        run_id,
        metrics=[Metric(key, float(value), 0, 0) for key, value in metrics.items()],
        params=[Param(key, str(value)) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


def _without_password(text: str) -> str:
    """Leave out what stands before the @ of an address: MLFLOW_TRACKING_URI may hold a password."""
    return re.sub(r"(?<=//)[^/@\s]+@", "", text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fingerprint(params: Params) -> str:
    """Hash all that is logged: params, and the metrics files of this commit's rungs."""
    rungs = ("fp32", "fp16", *params.rungs())
    digest = hashlib.sha256(params.model_dump_json().encode())
    for path in (*SUMMARY, *(path for rung in rungs for path in _logged(RungFiles(rung)))):
        digest.update(path.name.encode() + path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def _logged(files: RungFiles) -> tuple[Path, Path, Path]:
    return files.off_target, files.on_target, files.qat_history
