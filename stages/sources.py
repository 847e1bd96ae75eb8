"""sources: what each stage comes to import of the installed package, and what it knows of this pipeline's SoCs."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.sources")
