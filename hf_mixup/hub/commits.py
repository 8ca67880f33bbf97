"""Commit files to a branch of a repository. A commit that is retried is not made twice."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..errors import redacted
from .retry import retried

MOVED = (409, 412)  # the branch has a newer commit: another client's, or ours if its response was lost
TEXT = (".json", ".md", ".yaml")  # uploaded with the commit, not before it
COMMIT_SHA = re.compile(r"[0-9a-f]{40}")
NO_GITIGNORE = ""  # upload files also if the repository's .gitignore names them


def commit(
    api: HfApi,
    repo: str,
    files: dict[str, Path],
    stale: Callable[[str], bool],
    message: str,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload `files` (name in the repository: path) and delete the `stale` files; return the URL of the branch.

    With `create_pr`, return the URL of the new pull request. There is one commit, or none if nothing changes. Each try
    reads the branch again, and its commit has the newest commit as parent.
    """
    key, attempts = uuid.uuid4().hex, []

    def commit_once():
        if create_pr and attempts and (url := _pull_request(api, repo, key)):
            return url
        head = api.repo_info(repo, revision=revision)
        existing = {entry.rfilename for entry in head.siblings or []}
        unwanted = [name for name in sorted(existing - files.keys()) if stale(name)]
        attempts.append(head.sha)
        created = api.create_commit(
            repo,
            [
                *_upload(api, repo, files, revision, create_pr),
                *(CommitOperationDelete(name, is_folder=False) for name in unwanted),
            ],
            commit_message=message,
            commit_description=f"hf_mixup {key}" if create_pr else None,
            revision=revision,
            parent_commit=head.sha,
            create_pr=create_pr,
        )
        return created.pr_url or address(api, repo, revision)

    return retried(commit_once, f"commit {message!r} to {repo}", also=MOVED)


def _upload(api: HfApi, repo: str, files: dict[str, Path], revision: str | None, create_pr: bool) -> list:
    """Upload the large files, one by one in this thread, and return the commit operations of all files."""
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
            gitignore_content=NO_GITIGNORE,
        )
    return additions


def _pull_request(api: HfApi, repo: str, key: str) -> str | None:
    """The URL of the pull request with `key` in its commits: an earlier try opened it, but its response was lost."""
    user = api.whoami()["name"]
    for pull in api.get_repo_discussions(repo, author=user, discussion_type="pull_request", discussion_status="open"):
        if any(key in entry.message for entry in api.list_repo_commits(repo, revision=pull.git_reference)):
            return pull.url
    return None


def make_branch(api: HfApi, repo: str, revision: str) -> None:
    """Create the branch unless it exists; ValueError if `revision` is a tag or a commit, which cannot be pushed to."""
    if revision.startswith("refs/"):
        return
    refs = api.list_repo_refs(repo)
    if revision in {branch.name for branch in refs.branches}:
        return
    if revision in {tag.name for tag in refs.tags} or COMMIT_SHA.fullmatch(revision):
        raise ValueError(f"{revision!r} is a tag or a commit, and a run is pushed to a branch: give another revision")
    api.create_branch(repo, branch=revision, exist_ok=True)


def address(api: HfApi, repo: str, revision: str | None = None) -> str:
    """The URL of the repository's page, or of a branch's."""
    url = redacted(f"{api.endpoint}/{repo}")
    return url if revision in (None, "main") else f"{url}/tree/{revision}"
