"""task@KEY: the hash of one of the files and folders that the task is made of."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.task")
