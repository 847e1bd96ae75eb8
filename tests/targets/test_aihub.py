"""The AI Hub target with the real client, against a server on loopback that speaks the client's own messages."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import qai_hub.public_api_pb2 as pb
import torch
from onnx import TensorProto, helper
from qai_hub.client import Job as HubJob
from qai_hub.util import session

from bitladder.errors import UserError
from bitladder.params import TargetParams
from bitladder.socs import find_soc
from bitladder.targets import aihub
from bitladder.targets.aihub import AiHub
from bitladder.targets.target import Job
from bitladder.tasks.task import Split

from ai_hub_server import TOKEN, AiHubServer  # isort: skip

FAILED, RUNNING = pb.JobState.JOB_STATE_FAILED, pb.JobState.JOB_STATE_OPTIMIZING_MODEL

SETTINGS = {
    "backend": "ai-hub",
    "soc": "SM8650",
    "samples": 2,
    "max_gap": 0.1,
    "max_relative_gap": None,
    "workers": 1,
    "compile_limit_s": 60,
    "sample_limit_s": 60,
    "job_limit_s": 1,
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = AiHubServer({"output_0": [np.full((1, 4), row, np.float32) for row in range(2)]})
    ini = tmp_path / "client.ini"
    ini.write_text(f"[api]\napi_token = {TOKEN}\napi_url = {server.url}\nweb_url = {server.url}\nverbose = false\n")
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(ini))
    monkeypatch.setattr(session, "MAX_RETRIES", 0)  # so that a refused connection does not take half a minute
    monkeypatch.setattr(HubJob, "_polling_interval", 1)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()


@pytest.fixture
def job(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "output"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["output"])], "g", [x], [y])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    split = Split({"x": torch.zeros(2, 4)}, torch.zeros(2))
    return Job(path, "FP16", split, tmp_path / "target", tmp_path / "notes", tmp_path / "work")


def target() -> AiHub:
    return AiHub(find_soc("SM8650"), TargetParams(**SETTINGS))


def failure(job: Job) -> str:
    with pytest.raises(UserError) as caught:
        target().measure(job)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    return message


def kept() -> dict:
    (path,) = Path("build/ai-hub").glob("*.json")
    return json.loads(path.read_text())


def test_success_and_a_rerun_that_submits_nothing(server, job):
    found = target().measure(job)
    assert found.outputs["output"].tolist() == [[0.0] * 4, [1.0] * 4]
    assert (found.latency.source, found.latency.ms) == ("measured", 1.5)
    assert found.latency.p90_ms == pytest.approx(1.58)
    assert found.device.name == "Samsung Galaxy S24" and found.device.qairt is None
    assert found.device.untold == "AI Hub tells neither QAIRT, governor, heat nor how it warms up"
    assert (found.ops_npu, found.ops_cpu, found.memory_bytes) == (1, 1, 800)
    assert "softmax,cpu,100,0.1,measured" in (job.notes / "ops.csv").read_text()
    assert target().measure(job).latency == found.latency
    assert (server.submitted("compile"), server.submitted("inference")) == (1, 1)


def test_many_samples_go_in_parts_and_what_has_run_is_not_run_again(server, job, monkeypatch):
    monkeypatch.setattr(aihub, "UPLOAD_BYTES", 20)  # one of 16 bytes each
    server.answers = {"output_0": [np.ones((1, 4), np.float32)]}
    assert target().measure(job).outputs["output"].tolist() == [[1.0] * 4] * 2
    assert (server.submitted("compile"), server.submitted("inference")) == (1, 2)
    names = {run.inference_job.name for run in server.jobs.values() if run.WhichOneof("job") == "inference_job"}
    assert len(names) == 2
    assert target().measure(job).ops_npu == 1
    assert server.submitted("inference") == 2


def test_where_the_second_part_did_not_end_the_first_is_not_run_again(server, job, monkeypatch):
    monkeypatch.setattr(aihub, "UPLOAD_BYTES", 20)
    server.answers = {"output_0": [np.ones((1, 4), np.float32)]}
    target().measure(job)
    (first, second) = (name for name, run in server.jobs.items() if run.WhichOneof("job") == "inference_job")
    server.jobs[second].inference_job.job_state = FAILED
    assert f"job {second} failed" in failure(job)
    assert kept()["inference"] == first and kept()["inference-1"] is None
    target().measure(job)
    assert (server.submitted("compile"), server.submitted("inference")) == (1, 3)


def test_the_token_is_written_nowhere(server, job, tmp_path, capfd):
    target().measure(job)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "client.ini"]
    assert len(written) > 3
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert TOKEN not in "".join(capfd.readouterr())


def test_an_id_that_was_lost_is_found_by_name(server, job):
    target().measure(job)
    for path in Path("build/ai-hub").iterdir():
        path.unlink()
    target().measure(job)
    assert (server.submitted("compile"), server.submitted("inference")) == (1, 1)


def test_a_submission_whose_answer_is_lost_is_not_repeated(server, job):
    server.faults["POST jobs"] = "lost"
    assert "run again" in failure(job)
    server.faults.clear()
    target().measure(job)
    assert (server.submitted("compile"), server.submitted("inference")) == (1, 1)


def test_failed_compile_that_hands_back_a_model(server, job):
    server.final["compile"] = FAILED
    message = failure(job)
    assert "failed: the model is too odd" in message
    assert server.submitted("inference") == 0
    server.final["compile"] = pb.JobState.JOB_STATE_DONE
    target().measure(job)
    assert server.submitted("compile") == 2  # what failed is tried anew when asked again


def test_failed_inference(server, job):
    server.final["inference"] = FAILED
    assert "failed: the model is too odd" in failure(job)
    assert kept()["inference"] is None
    assert not job.folder.exists()


def test_success_without_a_profile(server, job):
    server.profiles = False
    assert "without a profile" in failure(job)


def test_timeout_then_the_same_job_goes_on(server, job):
    server.final["compile"] = RUNNING
    assert "target.job_limit_s = 1 s; run again" in failure(job)
    (waiting,) = server.jobs.values()
    waiting.compile_job.job_state = pb.JobState.JOB_STATE_DONE
    target().measure(job)
    assert server.submitted("compile") == 1


def test_rate_limit(server, job):
    server.faults["POST jobs"] = 429
    assert "takes no more jobs right now: refused with 429; run again later" in failure(job)


def test_expired_token(server, job):
    server.faults["GET"] = 401
    assert "bad or expired API token" in failure(job)


def test_service_error(server, job):
    server.faults["GET job_summaries"] = 503
    assert "unavailable right now" in failure(job)


def test_connection_refused(server, job):
    server.shutdown()
    server.server_close()
    assert "Could not connect" in failure(job)


def test_interrupted_download_leaves_nothing_and_the_next_run_goes_on(server, job):
    server.faults["GET /files/models"] = "drop"
    assert "AI Hub" in failure(job)
    assert not (job.folder / "model.dlc").exists()
    server.faults.clear()
    target().measure(job)
    assert (job.folder / "model.dlc").stat().st_size == 800
    assert (server.submitted("compile"), server.submitted("inference")) == (1, 1)


def test_interrupted_download_of_outputs(server, job):
    server.faults["GET /files/datasets"] = "drop"
    assert "AI Hub" in failure(job)


def test_a_device_that_is_not_there(server, job):
    with pytest.raises(UserError, match="not available"):
        AiHub(find_soc("QCS6490"), TargetParams(**SETTINGS)).measure(job)


def test_a_soc_without_a_device(server, job):
    with pytest.raises(UserError, match="no device of AI Hub's"):
        AiHub(find_soc("SM8635"), TargetParams(**SETTINGS)).measure(job)


def test_no_token(server, job, tmp_path, monkeypatch):
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    assert "found no token" in failure(job)


def test_a_missing_client_is_named(server, job, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qai_hub", None)
    assert "pip install 'bitladder[ai-hub]'" in failure(job)


def test_outputs_go_by_name_where_the_service_keeps_the_names_and_by_order_where_not(job):
    one, other = [np.zeros((1, 4), np.float32)], [np.ones((1, 4), np.float32)]
    assert aihub._outputs({"more": other, "output": one}, job.model)["output"].sum() == 0
    assert aihub._outputs({"renamed": other}, job.model)["output"].sum() == 4


def test_a_profile_without_single_times_has_no_p90():
    found = aihub._latency({"estimated_inference_time": 1500}, "a device")
    assert (found.ms, found.p90_ms) == (1.5, None)
    assert "its estimate of its runs" in found.reason


def test_jobs_are_kept_in_the_build_folder():
    assert Path("build/ai-hub") == aihub.JOBS
