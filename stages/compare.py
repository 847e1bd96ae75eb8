"""compare: all rungs side by side, and which one to ship."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.compare")
