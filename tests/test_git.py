from __future__ import annotations

import pytest

from modelworks._git import GitError, git, git_succeeds
from modelworks.errors import ModelworksError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    return tmp_path


def test_git_speaks_of_the_folder_it_is_called_in(repository):
    folder = repository / "models"
    folder.mkdir()
    assert git(folder, "rev-parse", "--show-prefix") == b"models/\n"


def test_a_failure_says_which_command_failed_and_why(repository):
    with pytest.raises(GitError) as failed:
        git(repository, "rev-parse", "--verify", "HEAD")
    assert failed.value.message == "`git rev-parse` failed: Needed a single revision"
    assert failed.value.said == "Needed a single revision"


def test_a_question_is_answered_by_the_exit_code(repository):
    (repository / "kept").touch()
    git(repository, "add", "kept")
    assert git_succeeds(repository, "ls-files", "--error-unmatch", "kept")
    assert not git_succeeds(repository, "ls-files", "--error-unmatch", "other")


def test_a_machine_without_git_is_told_from_a_git_that_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelworksError, match="git cannot be run") as error:
        git_succeeds(tmp_path, "status")
    assert not isinstance(error.value, GitError)
