"""train: FP32 weights from scratch, or those the task's model came with where train.epochs is 0."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.train", torch=True)
