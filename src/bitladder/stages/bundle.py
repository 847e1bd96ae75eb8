"""bundle: what ships of the chosen rung, with what proves where it came from, in deploy/."""

from bitladder.bundle.write import write_bundle
from bitladder.params import Params
from bitladder.paths import DEPLOY
from bitladder.running.determinism import seed_all

__all__ = ["main"]


def main(params: Params) -> None:
    """Write deploy/."""
    seed_all(params.seed)
    write_bundle(params, DEPLOY)
