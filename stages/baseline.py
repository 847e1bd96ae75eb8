"""baseline: the outputs of FP32, and the network made fit for AIMET."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.baseline", torch=True)
