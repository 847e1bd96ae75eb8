"""Real devices through Qualcomm AI Hub: compiled there, run there, timed there.

Needs the extra `ai-hub`. The token comes from the client's own configuration (~/.qai_hub/client.ini, or the file that
QAIHUB_CLIENT_INI names) and goes nowhere else.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from bitladder.errors import RefusedError, UserError
from bitladder.network.outputs import Outputs
from bitladder.params import TargetParams
from bitladder.paths import JOBS
from bitladder.records import Device as DeviceRecord
from bitladder.running.files import copy_file, read_json, write_json
from bitladder.running.patches import in_force
from bitladder.socs import Soc
from bitladder.targets.ops import OPS_FILE, weights_bytes, write_ops
from bitladder.targets.target import Job, Latency, Measured
from bitladder.tasks.samples import Samples

if TYPE_CHECKING:
    import qai_hub

__all__ = ["AiHub"]

COMPILED_FILE = "model.dlc"

OPTIONS = "--target_runtime qnn_dlc"

UPLOAD_BYTES = 500_000_000  # of samples, at most, in one job

RECENT = 200  # jobs looked through for one whose id was lost


@dataclass(frozen=True)
class AiHub:
    """A device of AI Hub's that has the SoC. Every job is submitted once: a rerun goes on with the job there is."""

    soc: Soc
    settings: TargetParams

    def measure(self, job: Job) -> Measured:
        """Compile, run and profile there. Raise UserError, in one line, where the service or a job fails."""
        if self.soc.device is None:
            raise RefusedError(
                f"target.soc: no device of AI Hub's is known to have {self.soc.name}; `bitladder socs` lists"
            )
        client = _client()
        with _one_line(client.config.api_token):
            return self._measure(client, job)

    def _measure(self, client: "qai_hub.Client", job: Job) -> Measured:
        from qai_hub import Device, JobType

        device = Device(self.soc.device or "")
        jobs = _Jobs(client, _key(job, self.soc), self.settings.job_limit_s)

        def compile_there() -> Any:
            uploaded = client.upload_model(str(job.model))
            with _once():
                return client.submit_compile_job(uploaded, device, name=jobs.name(JobType.COMPILE), options=OPTIONS)

        compiled = jobs.finished(JobType.COMPILE, compile_there)
        model = compiled.get_target_model()

        def run_there(part: int, samples: Samples) -> Any:
            uploaded = client.upload_dataset(_entries(samples, job.model))
            with _once():
                return client.submit_inference_job(
                    model, device, uploaded, name=jobs.name(JobType.INFERENCE, part), retry=False, profile=True
                )

        profiles, found = [], []
        for part, samples in enumerate(_parts(job.split)):
            inference = jobs.finished(JobType.INFERENCE, partial(run_there, part, samples), part)
            profile = inference.download_profile()
            returned = inference.download_output_data()
            if not profile or not returned:
                raise UserError(
                    f"AI Hub: job {inference.job_id} succeeded without a profile or outputs; see {inference.url}"
                )
            profiles.append(profile)
            found.append(_outputs(returned, job.model))
        profile = profiles[0]  # each job tells its own: the first is as good as any
        size = _download(compiled, job.folder / COMPILED_FILE)
        layers = [
            {"op": layer["name"], "unit": layer["compute_unit"].lower(), "cycles": layer.get("execution_cycles", 0)}
            for layer in profile["execution_detail"]
        ]
        write_ops(job.notes / OPS_FILE, layers, "measured")
        on_npu = sum(layer["unit"] == "npu" for layer in layers)
        outputs = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        latency = _latency(profile["execution_summary"], device.name)
        told = DeviceRecord(
            name=device.name,
            runtime="AI Hub, qnn_dlc",
            runs=len(profile["execution_summary"].get("all_inference_times") or []) or None,
            untold="AI Hub tells neither QAIRT, governor, heat nor how it warms up",
        )
        return Measured(outputs, size, weights_bytes(job.model), on_npu, len(layers) - on_npu, latency, device=told)


class _Jobs:
    """The jobs of one model, device and set of samples, by type; their ids are kept in JOBS once they are known."""

    def __init__(self, client: "qai_hub.Client", key: str, limit_s: float) -> None:
        self._client, self._key, self._limit_s = client, key, limit_s
        self._path = JOBS / f"{key}.json"

    def name(self, kind: Any, part: int = 0) -> str:
        """Name a job so that it is found again even if the answer to its submission was lost."""
        return f"bitladder-{self._key}-{_label(kind, part)}"

    def finished(self, kind: Any, submit: Callable[[], Any], part: int = 0) -> Any:
        """Give the job once it has succeeded, the one there is or a new one. Raise UserError where it does not."""
        job = self._known(kind, part)
        if job is None:
            job = submit()
            self._keep(kind, part, job.job_id)
        try:
            status = job.wait(timeout=self._limit_s)
        except TimeoutError:
            raise UserError(
                f"AI Hub: job {job.job_id} was not done after target.job_limit_s = {self._limit_s:g} s; run again to"
                f" go on waiting for it, or see {job.url}"
            ) from None
        # A failed compile still hands back a model, and a failed job an empty profile: the status is what counts
        if not status.success:
            self._keep(kind, part, None)
            # a graph that does not compile there never will; a run may fail for the device's sake
            failed = RefusedError if kind.name == "COMPILE" else UserError
            raise failed(f"AI Hub: job {job.job_id} failed: {status.message or 'no reason given'}; see {job.url}")
        return job

    def _known(self, kind: Any, part: int) -> Any:
        kept = self._kept().get(_label(kind, part))
        if kept is None:
            recent = self._client.get_job_summaries(limit=RECENT, type=kind)
            named = [job for job in recent if job.name == self.name(kind, part) and not job.status.failure]
            if not named:
                return None
            kept = named[0].job_id
            self._keep(kind, part, kept)
        return self._client.get_job(kept)

    def _kept(self) -> dict[str, Any]:
        return read_json(self._path) if self._path.exists() else {}

    def _keep(self, kind: Any, part: int, job_id: str | None) -> None:
        write_json(self._path, {**self._kept(), _label(kind, part): job_id})


def _label(kind: Any, part: int) -> str:
    return f"{kind.display_name}-{part}" if part else kind.display_name


def _client() -> "qai_hub.Client":
    try:
        import qai_hub
    except ModuleNotFoundError:
        raise UserError("target.backend: ai-hub needs AI Hub's client: pip install 'bitladder[ai-hub]'") from None
    client = qai_hub.Client()
    try:
        client.set_verbose(False)
    except (FileNotFoundError, qai_hub.client.Error):
        raise UserError(
            "target.backend: ai-hub found no token; run `qai-hub configure --api_token ...`, or name a client.ini in"
            " QAIHUB_CLIENT_INI"
        ) from None
    return client


@contextlib.contextmanager
def _once() -> Iterator[None]:
    """Keep the client from repeating a submission whose answer it did not get, as it may have arrived."""
    if not in_force("ai-hub-submit"):
        yield
        return
    from qai_hub.util import session

    retries, session.MAX_RETRIES = session.MAX_RETRIES, 0
    try:
        yield
    finally:
        session.MAX_RETRIES = retries


@contextlib.contextmanager
def _one_line(token: str) -> Iterator[None]:
    """Turn what the client raises into one line, without the token."""
    import requests
    from qai_hub.client import APIException, Error, RateLimitedError

    try:
        yield
    except RateLimitedError as error:
        raise UserError(f"AI Hub takes no more jobs right now: {_plain(error, token)}; run again later") from None
    except (Error, APIException, requests.RequestException, ValueError) as error:
        raise UserError(f"AI Hub: {_plain(error, token)}; run again to go on from here") from None


def _plain(error: Exception, token: str) -> str:
    # The client draws boxes around what it says
    text = " ".join("".join(" " if letter in "┌─┐|└┘" else letter for letter in str(error)).split())
    return (text.replace(token, "***") if token else text)[:400] or type(error).__name__


def _key(job: Job, soc: Soc) -> str:
    digest = hashlib.sha256(job.model.read_bytes())
    digest.update(f"{soc.device} {OPTIONS}".encode())
    for row in range(len(job.split)):
        for name, values in job.split.row(row).items():
            digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()[:16]


def _parts(split: Samples) -> list[Samples]:
    """Cut the samples into what one upload takes: so memory and the service's limit of a data set hold all of them."""
    count = max(1, UPLOAD_BYTES // sum(values.nbytes for values in split.row(0).values()))
    rows = torch.arange(len(split))
    return [split.subset(part) for part in rows.split(count)]


def _entries(split: Samples, model: Path) -> dict[str, list[np.ndarray]]:
    # an input that the network does not use is not in its graph
    names = [value.name for value in onnx.load(model, load_external_data=False).graph.input]
    rows = [split.row(index) for index in range(len(split))]
    return {name: [row[name] for row in rows] for name in names}


def _outputs(returned: dict[str, list[np.ndarray]], model: Path) -> Outputs:
    """Name the outputs as the graph does: the service may name them otherwise, and keeps their order."""
    names = [output.name for output in onnx.load(model, load_external_data=False).graph.output]
    ordered = [returned[name] for name in names] if set(names) <= set(returned) else list(returned.values())
    rows = zip(names, ordered, strict=True)
    return {name: torch.from_numpy(np.concatenate(values)) for name, values in rows}


def _latency(summary: dict[str, Any], device: str) -> Latency:
    times = summary.get("all_inference_times") or []
    p90 = float(np.quantile(times, 0.9)) / 1e3 if times else None
    reason = f"latency: measured on {device} by AI Hub, its estimate of {len(times) or 'its'} runs"
    return Latency("measured", reason, summary["estimated_inference_time"] / 1e3, p90_ms=p90)


def _download(compiled: Any, path: Path) -> int:
    with TemporaryDirectory() as folder:
        copy_file(Path(compiled.download_target_model(str(Path(folder) / path.name))), path)
    return path.stat().st_size
