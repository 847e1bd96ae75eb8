"""data: the task tried on two samples, and its samples in the splits that the other stages read."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.data", torch=True)
