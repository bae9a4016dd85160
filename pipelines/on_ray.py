"""Stages as tasks on a Ray cluster whose nodes see the project's folder at the same path."""

import os
import sys
from contextlib import AbstractContextManager
from typing import Any, cast

from prefect.task_runners import TaskRunner

from lekhani.errors import UsageError


def runner() -> TaskRunner[Any]:
    """A task runner on the cluster of RAY_ADDRESS, or of this machine alone.

    Raises UsageError where Ray is not installed.
    """
    try:
        from prefect_ray import RayTaskRunner
    except ImportError:
        raise UsageError("`engine` ray needs Ray: pip install 'lekhani[ray]'.") from None
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # tasks are imported from this folder
    return cast(
        TaskRunner[Any], RayTaskRunner(init_kwargs={"runtime_env": {"env_vars": variables}, "log_to_driver": False})
    )


def reserving(side_by_side: int, trains: bool) -> AbstractContextManager[Any]:
    """What a task submitted in the block takes of a node: its share of the cores and, if it trains, a free GPU.

    Ray sets OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES for the task, and starts it where that much is free.
    """
    import ray
    from prefect_ray.context import remote_options

    cores = min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    has_gpu = "GPU" in ray.cluster_resources()
    reserved: AbstractContextManager[Any] = remote_options(
        num_cpus=max(1, int(cores) // side_by_side), num_gpus=int(trains and has_gpu), scheduling_strategy="SPREAD"
    )
    return reserved
