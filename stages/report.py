"""report: the decision, the figures and the plots as one HTML page. `bitladder report` does the same.

The page names the git revision, so that it is no output of DVC's: its bits would differ from commit to commit.
"""

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.report.page import PAGE, render
    from bitladder.running.files import write_text

    write_text(PAGE, render(params))


if __name__ == "__main__":
    run(main)
