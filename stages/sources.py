"""sources: each stage's script, and what it comes to import: an edit reruns the stages that it matters to."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.sources")
