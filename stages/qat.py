"""qat@R: a rung trained on where PTQ missed the goal; PTQ's own model where it did not."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.qat", torch=True)
