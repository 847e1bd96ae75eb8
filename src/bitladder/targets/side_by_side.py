"""Device, emulator and simulation on the same samples: whose outputs are whose, and what it costs in the metric."""

from bitladder.network.outputs import StoredOutputs
from bitladder.network.scoring import Score, Tally
from bitladder.records import Side, SideBySide
from bitladder.tasks.metric import Metric
from bitladder.tasks.samples import Samples

__all__ = ["compare"]

BATCH = 4  # samples that are compared at a time; each may have outputs of many MB


def compare(
    split: Samples, metric: Metric, device: StoredOutputs, emulator: StoredOutputs, simulation: StoredOutputs
) -> SideBySide:
    """Compare the outputs of as many samples as the emulator ran."""
    device_score = _score(split, metric, device, simulation, len(emulator))
    emulator_score = _score(split, metric, emulator, simulation, len(emulator))
    between = _score(split, metric, device, emulator, len(emulator)).comparison
    return SideBySide(
        samples=len(emulator),
        device=_side(device_score),
        emulator=_side(emulator_score),
        simulation=device_score.reference_value,
        agreement=between.agreement,
        sqnr_db=between.sqnr_db,
    )


def _score(split: Samples, metric: Metric, one: StoredOutputs, other: StoredOutputs, count: int) -> Score:
    tally, done = Tally(metric), 0
    for inputs, targets in split.first(count).batches(BATCH):
        stop = done + len(next(iter(inputs.values())))
        tally.add(one.read(done, stop), other.read(done, stop), targets)
        done = stop
    return tally.score()


def _side(score: Score) -> Side:
    found = score.comparison
    return Side(value=found.value, agreement=found.agreement, sqnr_db=found.sqnr_db)
