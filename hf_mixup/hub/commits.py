"""One commit that makes a branch hold what it should, however often it has to be tried."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from .retry import retried, without_secrets

MOVED = (409, 412)  # the branch is no longer where it was: another's commit, or our own whose reply was lost
TEXT = (".json", ".md", ".yaml")  # sent with the commit itself, not before
COMMIT = re.compile(r"[0-9a-f]{40}")
UNLESS_TOLD = ""  # .gitignore of the repository does not decide what a run consists of


def commit(
    api: HfApi,
    repo: str,
    files: dict[str, Path],
    stale: Callable[[str], bool],
    message: str,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Put `files` (by their name there) on the branch, take away what is `stale`, and give the address.

    One commit, none if all is there already. Each try looks at the branch anew and commits on what it saw.
    """
    key, tried = uuid.uuid4().hex, []

    def once():
        if create_pr and tried and (opened := _opened(api, repo, key)):
            return opened
        head = api.repo_info(repo, revision=revision)
        there = {entry.rfilename for entry in head.siblings or []}
        gone = [CommitOperationDelete(name, is_folder=False) for name in sorted(there - files.keys()) if stale(name)]
        tried.append(head.sha)
        done = api.create_commit(
            repo,
            [*_uploaded(api, repo, files, revision, create_pr), *gone],
            commit_message=message,
            commit_description=f"hf_mixup {key}" if create_pr else None,
            revision=revision,
            parent_commit=head.sha,
            create_pr=create_pr,
        )
        return done.pr_url or address(api, repo, revision)

    return retried(once, f"commit {message!r} to {repo}", also=MOVED)


def _uploaded(api: HfApi, repo: str, files: dict[str, Path], revision: str | None, create_pr: bool) -> list:
    """The files as additions, the large ones uploaded: one after the other, in this thread, which may be ended."""
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    binary = [[addition] for addition in additions if not addition.path_in_repo.endswith(TEXT)]
    text = [addition for addition in additions if addition.path_in_repo.endswith(TEXT)]
    for group in [text, *binary]:
        api.preupload_lfs_files(
            repo,
            group,
            revision=revision,
            create_pr=create_pr,
            num_threads=1,
            free_memory=False,
            gitignore_content=UNLESS_TOLD,
        )
    return additions


def _opened(api: HfApi, repo: str, key: str) -> str | None:
    """The address of the pull request that a try opened whose reply was lost."""
    me = api.whoami()["name"]
    for pull in api.get_repo_discussions(repo, author=me, discussion_type="pull_request", discussion_status="open"):
        if any(key in entry.message for entry in api.list_repo_commits(repo, revision=pull.git_reference)):
            return pull.url
    return None


def make_branch(api: HfApi, repo: str, revision: str) -> None:
    """Make a branch of that name where there is none; ValueError if it is a tag or a commit, which nothing goes on."""
    if revision.startswith("refs/"):
        return
    refs = api.list_repo_refs(repo)
    if revision in {branch.name for branch in refs.branches}:
        return
    taken = revision in {tag.name for tag in refs.tags} or COMMIT.fullmatch(revision)
    if taken:
        raise ValueError(f"{revision!r} is a tag or a commit, and a run is pushed to a branch: give another revision")
    api.create_branch(repo, branch=revision, exist_ok=True)


def address(api: HfApi, repo: str, revision: str | None = None) -> str:
    """Where people look at the repository, or at a branch of it."""
    place = without_secrets(f"{api.endpoint}/{repo}")
    return place if revision in (None, "main") else f"{place}/tree/{revision}"
