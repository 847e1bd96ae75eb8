"""track: what the metrics files say, sent to MLflow. `bitladder track` does the same."""

from bitladder.running.stage import run

if __name__ == "__main__":
    run("bitladder.stages.track")
