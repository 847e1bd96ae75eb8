"""Joins the Ray cluster that `compute.cluster` of params.yaml names, or starts one. Without it nothing imports Ray."""

import atexit
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from bitladder.errors import UserError
from bitladder.params import ComputeParams
from bitladder.running.cluster import Cluster, host_and_port
from bitladder.running.explain import shown
from bitladder.running.patches import in_force

__all__ = ["connected"]

ANSWER_S, LEAVE_S = 10.0, 10.0


@contextmanager
def connected(compute: ComputeParams) -> Iterator[Cluster]:
    """Join the cluster that `compute.cluster` names, or start one of this machine's cores, for as long as it is used.

    Raises UserError where Ray is not installed, or the cluster does not answer.
    """
    address = str(compute.cluster)
    ray = _load(address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "local":
            _start_local(ray, quiet)
        else:
            _reach(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        start = "; `ray start --head` makes this machine its first node" if address == "auto" else ""
        raise UserError(f"compute.cluster: {address}: no cluster answers ({shown(error)}){start}") from None
    try:
        with Cluster(ray, compute) as cluster:
            yield cluster
    finally:
        leaving = Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)  # it may wait for a head that was lost
        atexit.unregister(ray.shutdown)  # or the process would end by waiting for a cluster that was lost


def _load(address: str) -> Any:
    """Import Ray, once it has read of the environment that a token is asked for: it reads that once a process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "120")  # after which it ends the process
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    else:
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")  # tries to join, each of which may take 35 s
    # Ray turns its token on by itself for a process on a node, and not for one that comes over ray://
    if "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray/auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"compute.cluster: Ray is not installed ({error}); pip install 'bitladder[ray]'") from None
    return ray


def _reach(address: str) -> None:
    """See whether somebody listens: Ray itself tries for minutes."""
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if ":" in where:
        socket.create_connection(host_and_port(where.removeprefix("ray://")), timeout=ANSWER_S).close()


def _start_local(ray: Any, quiet: dict[str, Any]) -> None:
    """Start one for this run alone, on loopback."""
    if in_force("ray-loopback"):
        from ray import _private as internals

        internals.services.resolve_ip_for_localhost = lambda host: host
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
