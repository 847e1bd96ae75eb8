"""profile@R: what the target answers, and what it costs there. `fp16` is profiled as the rungs are."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.profile", torch=True)
