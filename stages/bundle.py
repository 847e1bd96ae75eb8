"""bundle: what ships of the chosen rung, with what proves where it came from, in deploy/."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.bundle", torch=True)
