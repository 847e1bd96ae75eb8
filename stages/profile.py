"""profile@R: the outputs of the target, and what they cost there, on every SoC. `fp16` is profiled as the rungs are."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.profile", torch=True)
