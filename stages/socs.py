"""socs@R: the same on every further SoC of target.socs. One that does not take the rung is refused alone, with why."""

import shutil
from pathlib import Path
from typing import Any

from bitladder.running.stage import Params, run


def main(params: Params, rung: str) -> None:
    from bitladder.decision.gates import SKIPPED, is_skipped
    from bitladder.errors import RefusedError
    from bitladder.running.files import write_json
    from bitladder.targets.record import not_profiled, precision_of

    precision, backend = precision_of(params, rung), params.target.backend
    compiled = Path("build/socs") / rung
    compiled.mkdir(parents=True, exist_ok=True)
    records: dict[str, Any] = {}
    for soc in params.other_socs:
        if is_skipped(Path(f"build/export/{rung}/model.onnx")):
            records[soc.name] = not_profiled(backend, soc, f"skipped: {SKIPPED}")
        elif precision not in soc.takes:
            records[soc.name] = not_profiled(backend, soc, f"{soc.name} does not take {precision}")
        else:
            from bitladder.targets.profile import profile_rung

            folder = compiled / soc.name
            try:
                records[soc.name] = profile_rung(params, rung, soc, folder, Path("build/notes") / rung / soc.name)
            except RefusedError as refusal:
                records[soc.name] = not_profiled(backend, soc, str(refusal))
                shutil.rmtree(folder, ignore_errors=True)
    write_json(Path(f"metrics/socs/{rung}.json"), records)


if __name__ == "__main__":
    run(main)
