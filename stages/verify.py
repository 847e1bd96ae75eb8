"""verify: W16A16 must agree with FP32 before any integer format is trusted."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.verify", torch=True)
