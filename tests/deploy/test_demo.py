"""`make demo` says how far it is, and ends with the leaderboard; tests of the pipeline run its commands for real."""

from miniature import Project


def test_progress_and_leaderboard(small_project: Project) -> None:
    project, lekhani = small_project, small_project.stand_in("lekhani")
    first = project.make("demo")
    assert "==> Stage 1 of 1, after " in first
    assert "Running stage 'board'" in first
    assert (project.path / "params.yaml").read_text() in first, "the leaderboard of this pipeline"
    assert "==> Stage 1 of 1, after" in project.make("demo"), "a stage that did not change counts as well"
    assert [words[0] for words in lekhani()] == 2 * ["register", "promote", "generate"]

    (project.path / "dvc.yaml").write_text("stages: {board: {cmd: 'exit 3'}}")
    assert "exited with 3" in project.make("demo", code=2)
    assert len(lekhani()) == 6, "nothing is registered after a failure"
