"""Access rights of the local Hub, restarts, concurrent commits, and requests that try to leave its folder."""

import http.client
import json
import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from hf_mixup.testing import Accounts, LocalHub

PATH = "words/hello.txt"


def status(error) -> int:
    return error.value.response.status_code


def sent(hub, method: str, path: str, body=None, token: str | None = None) -> tuple[int, bytes]:
    """Status and body of a request whose path is sent unchanged."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    answer = reply.status, reply.read()
    connection.close()
    return answer


@pytest.mark.parametrize("stranger", ["bob", "anonymous"])
def test_private_repositories_are_not_found_by_others(api, repo, request, stranger):
    stranger = request.getfixturevalue(stranger)
    api.update_repo_settings(repo, private=True)
    assert api.hf_hub_download(repo, "model.safetensors")
    for ask in (
        lambda: stranger.model_info(repo),
        lambda: stranger.hf_hub_download(repo, PATH),
        lambda: stranger.list_repo_files(repo),
        lambda: stranger.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo),
    ):
        with pytest.raises(RepositoryNotFoundError):
            ask()
    assert repo not in {model.id for model in stranger.list_models()}


def test_a_private_repository_is_401_without_and_404_with_a_login(hub, api, repo):
    api.update_repo_settings(repo, private=True)
    assert sent(hub, "GET", f"/api/models/{repo}")[0] == 401
    assert sent(hub, "GET", f"/api/models/{repo}", token=hub.add_token("bob"))[0] == 404


def test_members_of_an_organization_may_write(api, bob):
    api.create_repo("org/shared", private=True, exist_ok=True)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="org/shared")
    with pytest.raises(HfHubHTTPError) as error:
        bob.create_repo("org/other")
    assert status(error) == 403


def test_gated_repositories_are_visible_but_not_their_files(api, bob, anonymous, repo, monkeypatch):
    api.update_repo_settings(repo, gated="manual")
    assert bob.model_info(repo).gated == "manual"
    for stranger, number in ((bob, 403), (anonymous, 401)):
        with pytest.raises(GatedRepoError) as error:
            stranger.hf_hub_download(repo, PATH)
        assert status(error) == number
        with pytest.raises(GatedRepoError):
            stranger.auth_check(repo)
    assert api.hf_hub_download(repo, PATH)
    monkeypatch.setattr(constants, "ENDPOINT", api.endpoint)  # huggingface_hub 1 ignores the endpoint of `api`
    api.grant_access(repo, "bob")
    assert bob.hf_hub_download(repo, PATH)


def test_a_read_token_cannot_write(hub, repo):
    reader = HfApi(endpoint=hub.url, token=hub.add_token("user", "read"))
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
    assert reader.hf_hub_download(repo, PATH)
    for write in (
        lambda: reader.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo),
        lambda: reader.create_repo("user/new"),
        lambda: reader.delete_repo(repo),
        lambda: reader.create_tag(repo, tag="v1"),
        lambda: reader.update_repo_settings(repo, private=True),
    ):
        with pytest.raises(HfHubHTTPError, match="'read', which does not include writing") as error:
            write()
        assert status(error) == 403


def test_a_fine_grained_token_has_only_its_rights(hub, api, repo):
    api.create_repo("user/closed", private=True, exist_ok=True)
    rights = {repo: "write", "org": "read"}
    fine = HfApi(endpoint=hub.url, token=hub.add_token("user", "fine", rights))
    assert fine.whoami()["auth"]["accessToken"]["role"] == "fineGrained"
    fine.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo)
    with pytest.raises(RepositoryNotFoundError):
        fine.model_info("user/closed")
    with pytest.raises(HfHubHTTPError, match="403"):
        fine.create_repo("org/new")


def test_an_unknown_token_is_refused(hub, repo):
    wrong = HfApi(endpoint=hub.url, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        wrong.whoami()
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        wrong.model_info(repo)
    assert status(error) == 401 and not isinstance(error.value, RepositoryNotFoundError)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"user": "eve"}, "Unknown user 'eve'"),
        ({"user": "user", "role": "admin"}, "Unknown role 'admin'"),
        ({"user": "user", "role": "fine"}, "only the role 'fine' has repos"),
    ],
)
def test_invalid_token_arguments_are_refused_with_a_message(wrong, message):
    with pytest.raises(ValueError, match=message):
        Accounts(["user"]).add_token(**wrong)


def test_everything_survives_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with LocalHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("user/kept", private=True)
        api.upload_file(path_or_fileobj=b"kept" * 99, path_in_repo="a.bin", repo_id="user/kept")
        api.create_tag("user/kept", tag="v1")
        sha = api.model_info("user/kept").sha
    (tmp_path / "hub" / "aside" / "half").write_text("left by a killed server")
    with LocalHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        assert api.model_info("user/kept", revision="v1").sha == sha and api.model_info("user/kept").private
        assert Path(api.hf_hub_download("user/kept", "a.bin")).read_bytes() == b"kept" * 99
        assert not list((tmp_path / "hub" / "aside").iterdir())
        with pytest.raises(OSError, match="Another hub serves"):
            LocalHub(tmp_path / "hub").start()


def test_two_clients_commit_at_once_and_nothing_is_lost(hub, api, repo):
    def commit(who: int) -> None:
        client = HfApi(endpoint=hub.url, token=hub.token)
        for number in range(8):
            path = f"{who}/{number}.{'bin' if number % 2 else 'txt'}"
            client.upload_file(path_or_fileobj=b"%d %d" % (who, number), path_in_repo=path, repo_id=repo)

    threads = [threading.Thread(target=commit, args=(who,)) for who in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    files = set(api.list_repo_files(repo))
    assert {f"{who}/{n}.{'bin' if n % 2 else 'txt'}" for who in range(2) for n in range(8)} <= files
    assert len(api.list_repo_commits(repo)) == 2 + 16


def test_of_two_commits_on_one_parent_one_succeeds(hub, api, repo):
    parent, outcomes, ready = api.model_info(repo).sha, [], threading.Barrier(2)

    def commit(who: int) -> None:
        client = HfApi(endpoint=hub.url, token=hub.token)
        ready.wait()
        try:
            operations = [CommitOperationAdd(f"{who}.txt", b"%d" % who)]
            client.create_commit(repo, operations, commit_message="mine", parent_commit=parent)
            outcomes.append(200)
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)

    threads = [threading.Thread(target=commit, args=(who,)) for who in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(outcomes) == [200, 412]


UP = "../" * 8 + "etc/passwd"
QUOTED = "..%2f" * 8 + "etc%2fpasswd"
BAD_PATHS = ["../up.txt", "/top.txt", "a/../../up.txt", "a/./b", "a//b", "", ".git/config", "a\\..\\b", "a\0b", None]


def test_no_url_reads_files_outside_the_folder(hub, repo):
    secret = hub.store.folder.parent / "secret.txt"
    secret.write_text("nobody's business")
    for address in (UP, QUOTED, "..%2f..%2frepo.json", "%2e%2e/%2e%2e/repo.json", "../../../../secret.txt"):
        for start in (f"/{repo}/resolve/main/", f"/{repo}/resolve/", "/", "/_large/", f"/api/models/{repo}/tree/main/"):
            code, body = sent(hub, "GET", start + address, token=hub.token)
            assert 400 <= code < 500 and b"root:" not in body and b"refs/heads" not in body and b"business" not in body
    for name in ("..%2f..", "..", ".%2fx", "a%00b"):
        assert 400 <= sent(hub, "GET", f"/api/models/user/{name}", token=hub.token)[0] < 500
        assert 400 <= sent(hub, "GET", f"/api/models/{name}/x", token=hub.token)[0] < 500


def test_no_file_is_committed_outside_the_repository(hub, api, repo):
    before = api.model_info(repo).sha
    for path in BAD_PATHS:
        value = {"path": path, "content": "", "encoding": "base64"}
        lines = [{"key": "header", "value": {"summary": "escape"}}, {"key": "file", "value": value}]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        assert sent(hub, "POST", f"/api/models/{repo}/commit/main", body, hub.token)[0] == 400, path
    assert api.model_info(repo).sha == before


def test_names_of_repositories_branches_and_uploads_cannot_leave_the_folder(hub, api, repo):
    for name in ("..", ".", "a/b", "../x", "x.git", ""):
        for body in ({"name": name}, {"name": "x", "organization": name}):
            if body.get("organization") != "":
                assert sent(hub, "POST", "/api/repos/create", json.dumps(body).encode(), hub.token)[0] == 400
    for branch in ("../../x", "/x", "x/", ".x", "a b", "refs/heads/x"):
        with pytest.raises((BadRequestError, HFValidationError)):
            api.create_branch(repo, branch=branch)
    for digest in ("../../x", "..%2f..%2fx", "0" * 64):
        assert 400 <= sent(hub, "PUT", f"/_large/models/{repo}/{digest}", b"x")[0] < 500
    large = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "../../repo.json", "size": 1}}
    body = "\n".join(json.dumps(line) for line in [{"key": "header", "value": {"summary": "x"}}, large]).encode()
    assert sent(hub, "POST", f"/api/models/{repo}/commit/main", body, hub.token)[0] == 400


def test_links_are_for_one_file_and_uploads_for_one_repository(hub, api, bob, repo):
    api.update_repo_settings(repo, private=True)
    digest = api.get_paths_info(repo, "model.safetensors")[0].lfs.sha256
    assert sent(hub, "GET", f"/_large/{digest}")[0] == 403
    assert sent(hub, "GET", f"/_large/{digest}?expires=9999999999&signature=0")[0] == 403
    # the hash of another user's file is not enough to commit the file
    bob.create_repo("bob/thief", exist_ok=True)
    large = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": digest, "size": 500}}
    body = "\n".join(json.dumps(line) for line in [{"key": "header", "value": {"summary": "x"}}, large]).encode()
    code, answer = sent(hub, "POST", "/api/models/bob/thief/commit/main", body, hub.add_token("bob"))
    assert code == 400 and b"has not been uploaded" in answer


def test_invalid_requests_are_400_with_a_reason(hub, repo):
    for path, body in (
        (f"/api/models/{repo}/commit/main", b"not json"),
        (f"/api/models/{repo}/commit/main", b'{"key": "file", "value": {}}'),
        (f"/api/models/{repo}/commit/main", b'{"key": "header", "value": {}}'),
        (f"/api/models/{repo}/preupload/main", b"[]"),
        ("/api/repos/create", b'{"name": "x", "type": "bucket"}'),
    ):
        code, answer = sent(hub, "POST", path, body, hub.token)
        assert code == 400 and json.loads(answer)["error"]
    code, answer = sent(hub, "GET", "/api/unknown/thing/that/is/not", token=hub.token)
    assert code == 404 and b"does not support GET" in answer
