"""Stages on a Ray cluster of two nodes that share the project's folder."""

import re
import sys
from pathlib import Path

import pytest
from prefect_server import Prefect
from workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_stages_run_side_by_side_on_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prefect_ray", reason="needs Ray: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    space = Workspace(tmp_path / "project")
    space.copy_pipeline()
    space.cut_small()
    params = space.params()
    params["tracking"]["backend"] = "none"
    params["pipeline"]["variants"] = ["dcgan", "flow_matching"]
    params["profiles"]["quick"]["variants"]["dcgan"]["channels"] = 8
    space.write_params(params)
    graph = space.path / "dvc.yaml"
    graph.write_text(
        graph.read_text().replace("cmd: lekhani", 'cmd: echo "node $NODE, threads $OMP_NUM_THREADS"; lekhani')
    )
    space.commit("start")
    prefect = Prefect(tmp_path)
    prefect.join(space)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # Ray sets it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "env_vars": {"NODE": "first"}})
    try:
        cluster.add_node(num_cpus=1, env_vars={"NODE": "second"})
        space.environment["RAY_ADDRESS"] = cluster.address
        with prefect.serving(space):
            words = ("--no-register", "--engine", "ray", "--side-by-side", "1")
            told = space.run(sys.executable, "pipelines/retrain.py", *words, seconds=1500)
            (run,) = prefect.runs()
            of_run = {"flow_run_id": {"any_": [run["id"]]}}
            asked = {"logs": of_run, "limit": 200, "sort": "TIMESTAMP_ASC"}
            lines = prefect.until("the logs", 60, lambda: prefect.ask("logs/filter", asked))
    finally:
        cluster.shutdown()
    assert "14 stages run, 0 cached" in told
    log = [line["message"] for line in lines]
    started = [line for line in log if line.startswith("Running stage")]
    assert len(started) == len(set(started)) == 14
    assert {found[1] for line in log if (found := re.fullmatch(r"node (\w+), threads 1", line))} == {"first", "second"}
    assert (space.path / "reports/leaderboard.md").exists()
