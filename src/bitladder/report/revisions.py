"""What git, and the DVC cache where it is there, hold of one revision of a project."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from bitladder.errors import UserError
from bitladder.paths import DECISION, LOCK, METRICS, PARAMS, RungFiles, evaluated
from bitladder.records import Decision, Evaluation, Kind, TargetRecord, parse_record
from bitladder.running.git import ask_git
from bitladder.running.patches import in_force
from bitladder.socs import find_soc

__all__ = ["Revision", "cached_file", "read_revision"]


@dataclass(frozen=True)
class Revision:
    """One revision, or the work tree where `name` is None. Files are read as asked for; `unseen` lists what was not."""

    name: str | None
    label: str
    unseen: list[str] = field(default_factory=list)

    @cached_property
    def params(self) -> dict[str, Any]:
        """What params.yaml holds; not validated, as an older one has other keys."""
        return self._mapping(str(PARAMS), YAML(typ="safe").load)

    @cached_property
    def rungs(self) -> tuple[str, ...]:
        """FP16 and the rungs, as params.yaml lists them."""
        return ("fp16", *(self.params.get("ladder") or {}))

    @cached_property
    def decision(self) -> Decision | None:
        """What metrics/decision.json holds, of whatever version; None if there is none."""
        return self._record(Decision, DECISION)

    @cached_property
    def metric(self) -> str:
        """The name of the task's metric; `metric` where FP32's record is not there."""
        fp32 = self._record(Evaluation, evaluated("fp32"))
        return fp32.metric if fp32 else "metric"

    @cached_property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Size and hash by path of all that DVC made, from dvc.lock."""
        stages = self._mapping(str(LOCK), YAML(typ="safe").load).get("stages") or {}
        return {out["path"]: out for stage in stages.values() for out in stage.get("outs", [])}

    def off_target(self, rung: str) -> Evaluation | None:
        """Read a rung's record off target; None where params.yaml has no such rung, or the file is not there."""
        return self._record(Evaluation, evaluated(rung)) if rung in self.rungs else None

    def on_target(self, rung: str) -> TargetRecord | None:
        """Read a rung's record on the SoCs that params.yaml names; None as for `off_target`."""
        if rung not in self.rungs:
            return None
        path = RungFiles(rung).on_target
        found = self._mapping(str(path), json.loads)
        named = {_soc(name) for name in (self.params.get("target") or {}).get("socs") or ()}
        if found and named and "socs" not in found:  # up to 0.1 further SoCs had a file of their own
            found["socs"] = self._mapping(f"{METRICS}/socs/{rung}.json", json.loads)
        record = self._parsed(TargetRecord, path, found)
        return record and record.model_copy(
            update={"socs": {soc: one for soc, one in record.socs.items() if soc in named}}
        )

    def layers(self, rung: str) -> dict[str, dict[str, str]]:
        """Read a rung's layers as exported, after QAT where it ran; none where there is no such file.

        Revisions from before there was one have the layers after PTQ.
        """
        paths = (str(RungFiles(rung).layers), str(RungFiles(rung).ptq_layers))
        text = next((text for path in paths if (text := self._text(path, note=False)) is not None), None)
        return {row["layer"]: row for row in csv.DictReader(io.StringIO(text or ""))}

    @cached_property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        fp32 = self._record(Evaluation, evaluated("fp32"))
        return fp32 is None or fp32.higher_is_better

    @property
    def soc(self) -> str:
        """The name of `target.soc`."""
        return _soc(str((self.params.get("target") or {}).get("soc")))

    def built(self, path: Path) -> Path | None:
        """Find an output: here, if this is the work tree, else in the DVC cache; None where it is not there."""
        if self.name is None and path.exists():
            return path
        if out := self.outputs.get(str(path)):
            return cached_file(out.get("md5"))
        folder = cached_file(self.outputs.get(str(path.parent), {}).get("md5"))  # DVC's list of its files
        inside = json.loads(folder.read_text("utf-8")) if folder else []
        return next((cached_file(one["md5"]) for one in inside if one["relpath"] == path.name), None)

    def encodings(self, rung: str) -> dict[str, Any] | None:
        """Scales and bits of every quantizer, from the DVC cache; None where they are not there."""
        path = self.encodings_path(rung)
        if self.name is None and Path(path).exists():
            return dict(json.loads(Path(path).read_text("utf-8")))
        cached = cached_file(self.outputs.get(path, {}).get("md5"))
        if cached is None:
            self.unseen.append(f"{path} at {self.label}: not in the DVC cache here; `dvc fetch` brings it")
            return None
        return dict(json.loads(cached.read_text("utf-8")))

    def encodings_path(self, rung: str) -> str:
        """Name the file that holds the scales of what was exported; those after PTQ, as `layers`."""
        path = str(RungFiles(rung).encodings)
        return path if path in self.outputs else str(RungFiles(rung).ptq_encodings)

    def _record(self, kind: type[Kind], path: Path) -> Kind | None:
        return self._parsed(kind, path, self._mapping(str(path), json.loads))

    def _parsed(self, kind: type[Kind], path: Path, found: dict[str, Any]) -> Kind | None:
        return parse_record(kind, json.dumps(found), f"{path} at {self.label}") if found else None

    def _mapping(self, path: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        """Parse a file; empty if it is not there. Raises UserError where it is damaged."""
        try:
            found = parse(self._text(path) or "{}") or {}
        except (YAMLError, ValueError) as error:
            raise UserError(f"{path} at {self.label}: damaged ({' '.join(str(error).split())[:200]})") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} at {self.label}: holds no keys")
        return found

    def _text(self, path: str, note: bool = True) -> str | None:
        if self.name is None:
            text = Path(path).read_text("utf-8") if Path(path).exists() else None
        else:
            text = ask_git("show", f"{self.name}:./{path}")
        if text is None and note:
            self.unseen.append(f"{path} at {self.label}: not there")
        return text


def read_revision(name: str | None) -> Revision:
    """Find a revision, None for the work tree. Raise UserError if git does not know it, or it has no params.yaml."""
    if name is None:
        return Revision(None, "work tree")
    known = ask_git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or _experiment(name)
    if known is None:
        raise UserError(f"{name}: git knows no such revision here; is it spelled right, and fetched?")
    known = known.strip()
    if ask_git("cat-file", "-e", f"{known}:./params.yaml") is None:
        raise UserError(f"{name}: has no params.yaml in this folder; run this in the folder of the pipeline")
    return Revision(known, name)


def _soc(name: str) -> str:
    """Give a SoC's own name; what an older revision called one that is not known now stays as it is."""
    try:
        return find_soc(name).name
    except UserError:
        return name


def _experiment(name: str) -> str | None:
    """Find a DVC experiment's commit by its name: git knows it under a longer one."""
    refs = ask_git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps/") or ""
    return next((line.split()[0] for line in refs.splitlines() if line.endswith(f"/{name}")), None)


def cached_file(digest: str | None) -> Path | None:
    """Find a file in the DVC cache by its hash, wherever DVC's config puts the cache."""
    if digest is None or not in_force("dvc-cache"):
        return None
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        path = Path(Repo(".").cache.local.oid_to_path(digest))
    except DvcException:
        return None
    return path if path.exists() else None
