"""What goes wrong on a bad day, done on purpose: full disks, damaged and deleted files, two runs at once.

    python benchmarks/bad_days.py                  # makes a small finished pipeline first; minutes
    python benchmarks/bad_days.py --clone DIR      # takes one that is finished already (it is copied, and not changed)

Needs root for the full disks (small tmpfs mounts). Prints a row for each: what was found, whether `dvc repro` heals it,
that is, ends with the bytes that there were before. Exits with 1 where something was not found or not healed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from kills import ONE_RUNG  # noqa: E402

from clones import Clone, make_clone  # noqa: E402

MODEL = Path("build/export/tiny/model.onnx")


def main() -> int:
    """Run every case in a copy of its own."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--clone", type=Path, help="a finished small pipeline, as benchmarks/kills.py makes")
    words.add_argument("cases", nargs="*", default=list(CASES))
    given = words.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ship-bad-days-"))
    bad = 0
    try:
        base = given.clone or _finished(folder / "base")
        for case in given.cases:
            shutil.copytree(base, folder / "work", symlinks=True)
            clone = Clone(folder / "work")
            found, healed = CASES[case](clone)
            bad += healed not in ("healed", "nothing to heal")
            print(f"{case} | {found} | {healed}", flush=True)
            shutil.rmtree(folder / "work")
    finally:
        shutil.rmtree(folder)
    return int(bad > 0)


def _finished(root: Path) -> Path:
    root.mkdir()
    clone = make_clone(root)
    clone.edit(ONE_RUNG)
    done = clone.repro()
    assert done.code == 0, done.text[-3000:]
    return root


@contextmanager
def _small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _full_disk(clone: Clone, stage: str, mounted: str, kilobytes: int) -> tuple[str, str]:
    """Force a stage to run with too small a disk under one of its folders, then with room again."""
    before = _outputs(clone)
    with _small_disk(clone.root / mounted, kilobytes):
        done = clone.repro("-f", "-s", stage)
        left = [str(path.relative_to(clone.root)) for path in (clone.root / mounted).rglob("*") if path.is_file()]
    return f"exit code {done.code}; {_last_words(done.text)}; left there: {left or 'nothing'}", _healed(
        clone, before, bool(done.code) and "Traceback" not in done.text
    )


def _corrupted_object(clone: Clone) -> tuple[str, str]:
    """Change a byte of a cache object, keep its size and rights, and delete the file that came from it."""
    before = _outputs(clone)
    digest = before[MODEL.as_posix()]
    cached = clone.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    _flip(cached, 1000)
    (clone.root / MODEL).unlink()
    silent = clone.repro()
    stage = clone.run("python", "stages/profile.py", "tiny")
    heal = clone.run("bitladder", "heal")
    done = clone.repro()
    found = (
        f"dvc repro hands it out: exit code {silent.code}; a stage that reads it: {stage.returncode},"
        f" {_last_words(stage.stderr)}; bitladder heal: {heal.stdout.strip()}; dvc repro then ran {sorted(done.ran)}"
    )
    return found, _healed(clone, before, stage.returncode == 1 and digest in heal.stdout and not done.code)


def _deleted(clone: Clone) -> tuple[str, str]:
    before = _outputs(clone)
    (clone.root / MODEL).unlink()
    done = clone.repro()
    return f"exit code {done.code}; ran {sorted(done.ran) or 'nothing: from the cache'}", _healed(
        clone, before, not done.code
    )


def _truncated(clone: Clone) -> tuple[str, str]:
    """Cut an ONNX file short; a stage that is run on it by hand must refuse it, and `dvc repro` bring it back."""
    before = _outputs(clone)
    content = (clone.root / MODEL).read_bytes()
    (clone.root / MODEL).write_bytes(content[: len(content) // 2])
    by_hand = clone.run("python", "stages/profile.py", "tiny")
    done = clone.repro()
    found = f"profile run on it: exit code {by_hand.returncode}; {_last_words(by_hand.stderr)}; dvc repro: {done.code}"
    return found, _healed(clone, before, bool(by_hand.returncode) and "Traceback" not in by_hand.stderr)


def _flipped_manifest(clone: Clone) -> tuple[str, str]:
    before = _outputs(clone)
    _flip(clone.root / "deploy/manifest.json", 700)
    done = clone.run("bitladder", "verify", "deploy")
    named = bool(done.returncode) and "manifest.json" in done.stderr and "Traceback" not in done.stderr
    again = clone.repro()
    healed = _healed(clone, before, named and not again.code)
    after = clone.run("bitladder", "verify", "deploy")
    return (
        f"verify: exit code {done.returncode}; {_last_words(done.stderr)}; after dvc repro: {after.returncode}",
        healed,
    )


def _flipped_context(clone: Clone) -> tuple[str, str]:
    before = _outputs(clone)
    _flip(clone.root / "deploy/SM8650/model_ctx_qnn.bin", 50_000)
    done = clone.run("bitladder", "verify", "deploy")
    named = bool(done.returncode) and "model_ctx_qnn.bin" in done.stdout and "Traceback" not in done.stderr
    again = clone.repro()
    return f"verify: exit code {done.returncode}; {done.stdout.strip()}", _healed(
        clone, before, named and not again.code
    )


def _two_at_once(clone: Clone) -> tuple[str, str]:
    """Start a second `dvc repro` while one runs."""
    before = _outputs(clone)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {**os.environ, "PATH": path, "PYTHONPATH": str(clone.root / "src")}
    words = ["dvc", "repro", "-f", "-s", "export@tiny"]
    runs = [
        subprocess.Popen(
            words, cwd=clone.root, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [run.communicate()[0] for run in runs]
    codes = [run.returncode for run in runs]
    refused = next((text for run, text in zip(runs, said, strict=True) if run.returncode), "")
    sound = 0 in codes and all("Traceback" not in text for text in said)
    return f"exit codes {codes}; {_last_words(refused)}", _healed(clone, before, sound)


def _flip(path: Path, index: int) -> None:
    """Change one bit of a file, and keep its rights."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[index] ^= 1
    path.write_bytes(content)
    path.chmod(mode)


def _healed(clone: Clone, before: dict[str, str], found: bool) -> str:
    done = clone.repro()
    after = _outputs(clone)
    differing = [path for path in before if before[path] != after.get(path)]
    onnx = clone.run("python", "-c", f"import onnx; onnx.checker.check_model('{MODEL}')").returncode
    if done.code or differing or onnx:
        return f"NOT HEALED: exit code {done.code}, {differing}, {_last_words(done.text)}"
    return "healed" if found else "healed, but NOT FOUND at first"


def _outputs(clone: Clone) -> dict[str, str]:
    stages = YAML(typ="safe").load((clone.root / "dvc.lock").read_text())["stages"]
    return {
        out["path"]: out["md5"]
        for name, stage in stages.items()
        if not name.endswith(("@balanced", "@compact"))
        for out in stage.get("outs", [])
    }


def _last_words(text: str) -> str:
    lines = [line.split("\r")[-1].strip() for line in text.strip().splitlines()]
    said = [
        line
        for line in lines
        if re.search(r"full|space|damaged|refuse|lock|ERROR|bitladder:|corrupt|differ|not what", line)
    ]
    return " / ".join(said[-2:])[:400]


CASES: dict[str, Callable[[Clone], tuple[str, str]]] = {
    "full disk in export": lambda clone: _full_disk(clone, "export@tiny", "build/export/tiny", 40),
    "full disk in bundle": lambda clone: _full_disk(clone, "bundle", "build/work", 120),
    "full disk in DVC's commit": lambda clone: _full_disk(clone, "export@tiny", ".dvc/cache", 40),
    "corrupted cache object": _corrupted_object,
    "deleted file in build/": _deleted,
    "truncated ONNX": _truncated,
    "bundle: one bit of the manifest": _flipped_manifest,
    "bundle: one bit of the context binary": _flipped_context,
    "two dvc repro at once": _two_at_once,
}

if __name__ == "__main__":
    sys.exit(main())
