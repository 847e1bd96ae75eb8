"""bundle: what the target needs of the chosen rung, with what proves where it came from, in deploy/."""

from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.bundle.write import write_bundle
    from bitladder.running.determinism import seed_all

    seed_all(params.seed)
    write_bundle(params, Path("deploy"))


if __name__ == "__main__":
    run(main, torch=True)
