"""task: what the task is made of, for the stages below to depend on."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.task")
