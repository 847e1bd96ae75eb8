"""Several SoCs over a cluster that they fill: each is measured by a worker that sees this folder."""

from collections.abc import Sequence
from concurrent.futures import Future, as_completed

from tqdm import tqdm

from bitladder.params import Params
from bitladder.paths import TASK, RungFiles, samples
from bitladder.records import Measurement
from bitladder.running.cluster_connect import connected
from bitladder.running.cluster_folder import SharedFolder
from bitladder.running.cluster_worker import NotHereError
from bitladder.socs import Soc, find_soc
from bitladder.targets.profile import profile_rung

__all__ = ["profile_over"]


def profile_over(params: Params, rung: str, socs: Sequence[Soc]) -> dict[str, Future]:
    """Measure a rung as `profile_rung` does, a worker a SoC; what came of it, by the SoC's name.

    A larger cluster than they fill is of more use to their samples, one SoC after the other: then none is measured
    here. Nor is one whose worker does not see this folder.
    """
    files = RungFiles(rung)
    made_of = (TASK, files.model, files.reference, files.scores, samples("evaluation"))
    with connected(params.compute) as cluster:
        shared = SharedFolder(cluster, made_of, max(params.compute.threads, params.target.workers))
        if shared.places > len(socs):
            return {}
        text = params.model_dump_json()
        futures = {soc.name: shared.schedule(_profile, text, rung, soc.name) for soc in socs}
        for _ in tqdm(as_completed(futures.values()), desc="profile", unit="SoC", total=len(futures)):
            pass
    return {name: done for name, done in futures.items() if not isinstance(done.exception(), NotHereError)}


def _profile(text: str, rung: str, soc: str) -> Measurement:
    params = Params.model_validate_json(text)
    alone = params.model_copy(update={"compute": params.compute.model_copy(update={"cluster": None})})
    return profile_rung(alone, rung, find_soc(soc))
