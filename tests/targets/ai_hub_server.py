"""AI Hub on loopback: speaks only messages of the client's own protobuf module, and can be told to fail."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import h5py
import numpy as np
import qai_hub.public_api_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from qai_hub.util.dataset_entries_converters import dataset_entries_to_h5

LATER = Timestamp(seconds=4_000_000_000)

TOKEN = "secret-token-of-the-test"


class AiHubServer(ThreadingHTTPServer):
    """State of the service. `faults` maps `METHOD path-prefix` to a status code, `drop` or `hang`."""

    daemon_threads = True

    def __init__(self, answers: dict[str, list[np.ndarray]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, object] = {}
        self.jobs: dict[str, pb.Job] = {}
        self.final = {"compile": pb.JobState.JOB_STATE_DONE, "inference": pb.JobState.JOB_STATE_DONE}
        self.profiles = True
        self.answers = answers
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def submitted(self, kind: str) -> int:
        return sum(job.WhichOneof("job") == f"{kind}_job" for job in self.jobs.values())


class _Handler(BaseHTTPRequestHandler):
    server: AiHubServer

    def log_message(self, *_):
        pass

    def reply(self, message=None, status=200, body=b"", headers=()):
        body = message.SerializeToString() if message is not None else body
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf" if message is not None else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        server, path = self.server, urlparse(self.path).path.removeprefix("/api/v1/").rstrip("/")
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        server.requests.append(f"{self.command} {path}")
        fault = next((f for start, f in server.faults.items() if f"{self.command} {path}".startswith(start)), None)
        if fault == "lost":  # what was asked is done, and the answer does not arrive
            self.route(path, body, answer=False)
            self.close_connection = True
            return None
        if fault == "drop":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
            return None
        if fault is not None:
            return self.reply(status=fault, body=json.dumps({"detail": f"refused with {fault}"}).encode())
        if not path.startswith("/files") and self.headers.get("Authorization") != f"token {TOKEN}":
            return self.reply(status=401)
        return self.route(path, body)

    do_GET = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

    def route(self, path, body, answer=True):
        send = self.reply if answer else lambda *_, **__: None
        server, parts = self.server, path.split("/")
        match (self.command, *parts):
            case ("GET", "devices"):
                name = parse_qs(urlparse(self.path).query).get("name", [""])[0]
                known = [pb.Device(name=name, os="14", attributes=["framework:qnn"])]
                send(pb.DeviceList(devices=known if name.startswith("Samsung") else []))
            case ("POST", "models" | "datasets" as kind):
                send(pb.CreateUpdateResponse(id=f"{kind[0]}new", expiration_time=LATER))
            case ("GET", "models", _, "multipart_upload"):
                urls = pb.FileMultipartUploadURL(urls=[f"{server.url}/files/up"], upload_id="u", max_part_size=1 << 30)
                send(pb.FileUploadResponse(multipart_url=urls))
            case ("GET", "datasets", _, "upload_url"):
                url = pb.FileUploadURL(url=f"{server.url}/files/up", file_field_name="file")
                send(pb.FileUploadResponse(url=url))
            case ("PUT" | "POST", "", "files", _):
                send(status=200, headers=[("ETag", "e")])
            case ("POST", "models", name, "multipart_upload") | ("PATCH", "datasets", name):
                send(pb.CreateUpdateResponse(id=name))
            case ("POST", "jobs"):
                send(pb.CreateUpdateResponse(id=self.create(body)))
            case ("GET", "job_summaries"):
                kind = parse_qs(urlparse(self.path).query)["type"][0]
                send(pb.JobSummaryList(job_summaries=self.summaries(kind)))
            case ("GET", "jobs", name):
                send(server.jobs[name])
            case ("GET", "jobs", name, "result"):
                send(pb.JobResult(inference_job_result=self.result(name)))
            case ("GET", "datasets", name):
                send(pb.Dataset(dataset_id=name, name="out", expiration_time=LATER))
            case ("GET", "models", name):
                send(pb.Model(model_id=name, model_type=pb.ModelType.MODEL_TYPE_QNN_DLC))
            case ("GET", "models" | "datasets" as kind, _, "download" | "download_data"):
                url = pb.FileDownloadURL(url=f"{server.url}/files/{kind}", filename=f"{kind}.bin")
                send(pb.FileDownloadResponse(url=url))
            case ("GET", "", "files", kind):
                send(body=b"compiled" * 100 if kind == "models" else self.dataset())
            case _:
                send(status=404, body=path.encode())

    def create(self, body):
        job, server = pb.Job.FromString(body), self.server
        kind = job.WhichOneof("job").removesuffix("_job")
        name = f"j{kind}{len(server.jobs)}"
        inner = getattr(job, f"{kind}_job")
        setattr(inner, f"{kind}_job_id", name)
        inner.job_state = server.final[kind]
        if inner.job_state == pb.JobState.JOB_STATE_FAILED:
            inner.failure_reason = "the model is too odd"
        if kind == "compile":
            inner.target_model.CopyFrom(pb.Model(model_id="mtarget", model_type=pb.ModelType.MODEL_TYPE_QNN_DLC))
        server.jobs[name] = job
        return name

    def summaries(self, kind):
        found = []
        for name, job in self.server.jobs.items():
            if job.WhichOneof("job") == f"{kind}_job":
                inner = getattr(job, f"{kind}_job")
                summary = getattr(pb, f"{kind.capitalize()}JobSummary")(
                    job_id=name, name=inner.name, job_state=inner.job_state
                )
                found.append(pb.JobSummary(**{f"{kind}_job_summary": summary}))
        return found

    def result(self, name):
        if not self.server.profiles:
            return pb.InferenceJobResult(inference_job_id=name)
        npu, cpu = pb.ComputeUnit.COMPUTE_UNIT_NPU, pb.ComputeUnit.COMPUTE_UNIT_CPU
        detail = pb.ProfileDetail(
            major_version=1,
            minor_version=2,
            execution_time=1500,
            all_execution_times=[1400, 1500, 1600],
            layer_details=[
                pb.LayerDetail(name="conv", compute_unit=npu, execution_cycles=900),
                pb.LayerDetail(name="softmax", compute_unit=cpu, execution_cycles=100),
            ],
        )
        return pb.InferenceJobResult(inference_job_id=name, output_dataset_id="dout", detail=detail)

    def dataset(self):
        held = io.BytesIO()
        with h5py.File(held, "w") as file:
            dataset_entries_to_h5(self.server.answers, file)
        return held.getvalue()
