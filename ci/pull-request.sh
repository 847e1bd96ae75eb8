#!/usr/bin/env bash
# What a CI job does for a pull request, whichever CI it is: run the pipeline, write what a reviewer reads to reports/,
# and fail where goals that held on the base branch no longer hold.
#
#   ci/pull-request.sh origin/main
#
# Results are shared through the DVC remote, if one is set (dvc remote add --default NAME URL): what a colleague or an
# earlier job has run is taken from there. Push needs the remote's credentials in the environment.
# Leaves: reports/index.html (the page), reports/review.md (the comment), reports/diff.html.
set -euo pipefail
base=${1:?usage: ci/pull-request.sh BASE, for instance origin/main}

mkdir -p reports
bitladder heal --lock
bitladder check
remote=$(dvc remote list)
if [[ -n $remote ]]; then
  # Nothing there yet, or an older cache, is no failure: what is missing is run
  dvc fetch --run-cache || echo "dvc fetch: not all is in the remote; the pipeline runs what is missing"
fi
dvc repro --single-item sources  # with --pull DVC would take it as done, and no edited code would be noticed
dvc repro ${remote:+--pull}
if [[ -n $remote ]]; then
  bitladder push || echo "bitladder push: the remote did not take the results; is this job allowed to write?"
fi

bitladder report
bitladder diff "$base" --format html > reports/diff.html
{
  bitladder diff "$base" --format markdown
  printf '\n<details><summary>All rungs</summary>\n\n'
  bitladder show
  printf '\n</details>\n'
} > reports/review.md
git diff --quiet -- dvc.lock metrics gates ||
  printf '\ndvc.lock and metrics/ as committed are not those of this commit: run dvc repro and commit them.\n' \
    >> reports/review.md
cat reports/review.md

bitladder diff "$base" --check > /dev/null
