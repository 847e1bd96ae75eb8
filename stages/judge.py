"""judge@R: the goals held against a rung, and whether to descend below it. `fp16` is judged as the rungs are."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.judge")
