"""The local Hub with the client of huggingface_hub: repositories, commits, revisions and downloads."""

import time
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    constants,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from hf_mixup.testing import LocalHub


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def read(api, repo: str, path: str, **options) -> bytes:
    return Path(api.hf_hub_download(repo, path, **options)).read_bytes()


def status(error) -> int:
    return error.value.response.status_code


def test_it_starts_at_once_and_releases_its_port(tmp_path):
    start = time.perf_counter()
    with LocalHub(tmp_path) as hub:
        assert time.perf_counter() - start < 1
        assert hub.url == f"http://127.0.0.1:{hub.port}"
        with pytest.raises(OSError, match=f"Port {hub.port} cannot be used"):
            LocalHub(tmp_path / "other", port=hub.port).start()
    with pytest.raises(RuntimeError, match="not running"):
        _ = hub.url
    with LocalHub(tmp_path, port=hub.port) as again:
        assert again.port == hub.port


def test_whoami_names_user_organizations_and_role(api):
    me = api.whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("user", ["org"])
    assert me["auth"]["accessToken"]["role"] == "write"


def test_create_repo_is_409_for_an_existing_repository_unless_exist_ok(api):
    url = api.create_repo("made")
    assert (url.repo_id, url.repo_type) == ("user/made", "model")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("user/made")
    assert status(error) == 409
    assert api.create_repo("user/made", exist_ok=True) == url
    assert [c.title for c in api.list_repo_commits("user/made")] == ["initial commit"]


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_each_kind_of_repository_has_its_own_namespace(api, kind):
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    url = api.create_repo("org/same", repo_type=kind, private=True, **sdk)
    assert (url.repo_id, url.repo_type) == ("org/same", kind)
    api.upload_file(path_or_fileobj=kind.encode(), path_in_repo="kind.txt", repo_id="org/same", repo_type=kind)
    assert read(api, "org/same", "kind.txt", repo_type=kind) == kind.encode()
    info = api.repo_info("org/same", repo_type=kind)
    assert info.private and info.author == "org"
    if kind == "space":
        assert info.sdk == "gradio"
    api.delete_repo("org/same", repo_type=kind)
    assert not api.repo_exists("org/same", repo_type=kind)


def test_listing_shows_only_visible_repositories(api, anonymous, repo):
    api.create_repo("user/hidden", private=True, exist_ok=True)
    mine = {model.id for model in api.list_models(author="user")}
    assert {repo, "user/hidden"} <= mine
    assert "user/hidden" not in {model.id for model in anonymous.list_models(author="user")}
    assert [model.id for model in api.list_models(search=repo)] == [repo]


def test_large_files_go_to_storage_and_small_ones_to_git(api, hub, repo):
    files = {file.path: file for file in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert files["words/hello.txt"].lfs is None
    assert files["words/hello.txt"].blob_id == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"  # git hash-object
    assert files["model.safetensors"].lfs.size == 500
    assert files["model.safetensors"].last_commit.title == "two files"
    assert read(api, repo, "model.safetensors") == b"large" * 100
    sent = next(r for r in hub.requests if r.path.startswith("/_large/") and r.method == "GET")
    assert "signature=" in sent.path and sent.status == 200


def test_long_files_are_uploaded_in_parts(api, hub, repo):
    content = bytes(range(256)) * 40
    api.upload_file(path_or_fileobj=content, path_in_repo="long.bin", repo_id=repo)
    parts = [r for r in hub.requests if r.method == "PUT" and r.path.partition("?")[0].endswith(("/1", "/2", "/3"))]
    assert len(parts) >= 3
    assert read(api, repo, "long.bin") == content


def test_upload_folder_twice_makes_one_commit(api, repo, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "top.txt").write_text("top")
    (tmp_path / "in" / "weights.bin").write_bytes(b"w" * 300)
    first = api.upload_folder(repo_id=repo, folder_path=tmp_path)
    again = api.upload_folder(repo_id=repo, folder_path=tmp_path)
    assert again.oid == first.oid
    assert {"top.txt", "in/weights.bin"} <= set(api.list_repo_files(repo))


def test_files_named_in_gitignore_are_not_uploaded(api, repo, tmp_path):
    (tmp_path / ".gitignore").write_text("*.log\nbuild/\n!keep.log\n")
    for name in ("a.log", "keep.log", "build/x.txt", "src/build.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    first = api.upload_folder(repo_id=repo, folder_path=tmp_path)
    files = set(api.list_repo_files(repo))
    assert {"keep.log", "src/build.txt"} <= files and not {"a.log", "build/x.txt"} & files
    assert api.create_commit(repo, [add("b.log", b"1")], commit_message="only ignored files").oid == first.oid


def test_a_commit_adds_deletes_and_copies(api, repo):
    api.create_commit(
        repo,
        [
            add("new.txt", b"new"),
            CommitOperationCopy("model.safetensors", "copy/model.safetensors"),
            CommitOperationCopy("words/hello.txt", "copy/hello.txt"),
            CommitOperationDelete("words/"),
        ],
        commit_message="many things",
        commit_description="all at once",
    )
    names = set(api.list_repo_files(repo))
    assert names == {".gitattributes", "new.txt", "model.safetensors", "copy/model.safetensors", "copy/hello.txt"}
    assert read(api, repo, "copy/model.safetensors") == b"large" * 100
    newest = api.list_repo_commits(repo)[0]
    assert (newest.title, newest.message, newest.authors) == ("many things", "all at once", ["user"])
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("words/hello.txt", repo)


def test_a_stale_parent_is_refused(api, repo):
    parent = api.model_info(repo).sha
    api.create_commit(repo, [add("a", b"1")], commit_message="first", parent_commit=parent)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit(repo, [add("b", b"2")], commit_message="second", parent_commit=parent)
    assert status(error) == 412
    assert "b" not in api.list_repo_files(repo)


def test_a_pull_request_does_not_change_main(api, bob, repo):
    pull = bob.create_commit(repo, [add("theirs.txt", b"1")], commit_message="a gift", create_pr=True)
    assert (pull.pr_num, pull.pr_revision) == (1, "refs/pr/1")
    bob.upload_file(path_or_fileobj=b"2", path_in_repo="more.txt", repo_id=repo, revision="refs/pr/1")
    assert {"theirs.txt", "more.txt"} <= set(api.list_repo_files(repo, revision="refs/pr/1"))
    assert "theirs.txt" not in api.list_repo_files(repo)
    assert [ref.ref for ref in api.list_repo_refs(repo, include_pull_requests=True).pull_requests] == ["refs/pr/1"]
    assert [(d.num, d.title, d.author) for d in api.get_repo_discussions(repo)] == [(1, "a gift", "bob")]
    with pytest.raises(HfHubHTTPError) as error:
        bob.upload_file(path_or_fileobj=b"3", path_in_repo="forced.txt", repo_id=repo)
    assert status(error) == 403


def test_branches_and_tags(api, repo):
    before = api.model_info(repo).sha
    api.create_branch(repo, branch="try/this")
    api.create_tag(repo, tag="v1", tag_message="first")
    api.upload_file(path_or_fileobj=b"!", path_in_repo="new.txt", repo_id=repo, revision="try/this")
    assert api.model_info(repo).sha == api.model_info(repo, revision="v1").sha == before
    assert read(api, repo, "new.txt", revision="try/this") == b"!"
    refs = api.list_repo_refs(repo)
    assert {ref.name for ref in refs.branches} == {"main", "try/this"} and [tag.name for tag in refs.tags] == ["v1"]
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch="try/this")
    assert status(error) == 409
    api.create_tag(repo, tag="v1", exist_ok=True)
    api.delete_branch(repo, branch="try/this")
    api.delete_tag(repo, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(repo, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(repo, revision="try/this")


def test_an_old_commit_is_found_by_its_id(api, repo):
    old = api.model_info(repo).sha
    api.upload_file(path_or_fileobj=b"changed", path_in_repo="words/hello.txt", repo_id=repo)
    assert read(api, repo, "words/hello.txt", revision=old) == b"hello"
    assert read(api, repo, "words/hello.txt", revision=old[:8]) == b"hello"
    assert read(api, repo, "words/hello.txt") == b"changed"


def test_each_missing_thing_has_its_own_error(api, repo):
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(repo, "nothing.txt")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(repo, "words/hello.txt", revision="nowhere")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("user/nobody", "words/hello.txt")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("bare-name")
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(repo, "no/folder"))
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("user/nobody")
    assert api.file_exists(repo, "words/hello.txt") and not api.file_exists(repo, "nothing.txt")
    missing = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", ".no_exist")
    assert list(missing.rglob("nothing.txt"))


def test_paths_info_has_files_and_folders(api, repo):
    found = api.get_paths_info(repo, ["words", "words/hello.txt", "nothing"])
    assert [(type(entry).__name__, entry.path) for entry in found] == [
        ("RepoFolder", "words"),
        ("RepoFile", "words/hello.txt"),
    ]


def test_a_long_tree_comes_in_pages(api, hub, repo):
    api.create_commit(repo, [add(f"many/{i:03}.txt", b"%d" % i) for i in range(120)], commit_message="many")
    before = len(hub.requests)
    files = list(api.list_repo_tree(repo, "many", expand=True))
    assert len({file.path for file in files}) == 120
    assert len(hub.requests) - before == 3


def test_a_snapshot_is_loaded_from_the_cache_when_offline(api, repo, tmp_path, monkeypatch):
    place = Path(api.snapshot_download(repo))
    assert (place / "words/hello.txt").read_bytes() == b"hello"
    copy = Path(api.snapshot_download(repo, local_dir=tmp_path / "copy", allow_patterns=["words/*"]))
    assert [path.name for path in copy.glob("*") if path.name != ".cache"] == ["words"]
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert Path(snapshot_download(repo)) == place
        with pytest.raises(LocalEntryNotFoundError):
            snapshot_download("user/never-seen")


def test_a_range_is_served_as_a_range(api, repo):
    for path, whole in (("words/hello.txt", b"hello"), ("model.safetensors", b"large" * 100)):
        url = hf_hub_url(repo, path, endpoint=api.endpoint)
        reply = get_session().get(url, headers={"Range": "bytes=1-3"}, follow_redirects=True)
        assert (reply.status_code, reply.content) == (206, whole[1:4])
        assert reply.headers["content-range"] == f"bytes 1-3/{len(whole)}"
        reply = get_session().get(url, headers={"Range": "bytes=9999-"}, follow_redirects=True)
        assert reply.status_code == 416


def test_invalid_metadata_is_refused_before_the_upload(api, hub, repo):
    for text in ("---\nlicense: [\n---\n", "---\ntags: 3\n---\n", "---\nmodel-index: word\n---\n"):
        with pytest.raises(ValueError, match="Invalid metadata in README.md"):
            api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo)
    assert "README.md" not in api.list_repo_files(repo)


def test_the_card_becomes_tags(api, repo):
    card = b"---\nlicense: mit\ntags: [one-of-a-kind]\nlibrary_name: timm\n---\n# Hello\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)
    info = api.model_info(repo)
    assert info.card_data.license == "mit" and {"timm", "one-of-a-kind", "license:mit"} <= set(info.tags)
    assert [model.id for model in api.list_models(filter="one-of-a-kind")] == [repo]


def test_a_file_cannot_be_a_folder_too(api, repo):
    with pytest.raises(BadRequestError, match="delete one of them"):
        api.create_commit(repo, [add("words/hello.txt/inside.txt", b"1")], commit_message="impossible")
