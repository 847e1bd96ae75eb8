"""sensitivity: which layers cost the metric, weights and activations apart."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.sensitivity", torch=True)
