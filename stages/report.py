"""report: the decision, the figures and the plots as one HTML page. `bitladder report` does the same."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.report")
