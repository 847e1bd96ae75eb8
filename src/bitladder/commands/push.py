"""Results on a DVC remote, so that what one machine has run no other runs again."""

from bitladder.errors import UserError
from bitladder.running.patches import require

__all__ = ["push"]


def push(remote: str | None = None) -> int:
    """Push what `dvc push --run-cache` pushes, and what it leaves out: the results that the run cache speaks of.

    DVC 3 pushes the record of each run, but of its results only those that dvc.lock names and that its cache holds by
    what the pipeline says. So metrics, which git keeps, are not there for a run that was not committed, and
    `dvc repro --pull` elsewhere runs the stage again.

    Args:
        remote: its name in DVC; None: the default one.

    Returns: how many objects were sent. Raises UserError where there is no such remote, where it takes nothing, or
    where DVC is of a version that this was not checked with.

    """
    require("dvc-push")
    from dvc.config import NoRemoteError
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            sent = repo.push(remote=remote)
            runs = repo.stage_cache.push(remote)
            results = {found for objects in repo.stage_cache.get_used_objs(runs).values() for found in objects}
            there = {found for found in results if repo.cache.local.exists(found.value)}
            outcome = repo.cloud.push(there, remote=remote)
    except NotDvcRepoError:
        raise UserError("no DVC repository here; run it in the folder that has dvc.yaml") from None
    except NoRemoteError:
        raise UserError("no remote to push to; name one with `dvc remote add --default NAME URL`") from None
    except DvcException as error:
        raise UserError(f"the remote did not take the results: {' '.join(str(error).split())}") from None
    if outcome.failed:
        raise UserError(f"the remote did not take {len(outcome.failed)} of {len(there)} results; push again")
    return sent + len(outcome.transferred)
