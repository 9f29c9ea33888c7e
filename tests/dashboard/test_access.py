"""Access: the token, the cookie, the base path, and addresses that are rejected."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import boards
import pytest

from atoll.dashboard import access, app
from atoll.storage.store import StoreError


@pytest.fixture
def store(tmp_path):
    return boards.study(tmp_path, [0.5])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_local_addresses(host):
    assert access.is_local(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "node7", "localhost.example.org"])
def test_addresses_that_others_reach(host):
    assert not access.is_local(host)


def test_a_token_is_asked_for_once_and_kept_in_a_signed_cookie(store):
    server = app.create_app(store, token="secret token").server
    stranger, reader = server.test_client(), server.test_client()
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/assets/atoll.js", "/study?name=s"):
        assert stranger.get(path).status_code == 403
    assert stranger.post("/_dash-update-component", json={}).status_code == 403
    assert "is not this dashboard's" in stranger.get("/?token=wrong").text
    assert stranger.get("/").status_code == 403
    entered = reader.get("/study?name=s&token=secret%20token")
    assert (entered.status_code, entered.headers["Location"]) == (302, "/study?name=s")
    assert "HttpOnly" in entered.headers["Set-Cookie"]
    assert "SameSite=Lax" in entered.headers["Set-Cookie"]
    assert "secret" not in entered.headers["Set-Cookie"]
    assert reader.get("/_dash-layout").status_code == 200


def test_a_forged_or_foreign_cookie_opens_nothing(store):
    other = app.create_app(store, token="another").server.test_client()
    cookie = other.get("/?token=another").headers["Set-Cookie"].split(";")[0].split("=", 1)[1]
    server = app.create_app(store, token="secret").server
    client = server.test_client()
    client.set_cookie(server.config["SESSION_COOKIE_NAME"], cookie)
    assert client.get("/").status_code == 403


def test_tokens_differ_and_are_long():
    assert len({access.new_token() for _ in range(5)}) == 5
    assert len(access.new_token()) >= 40


def test_without_a_token_there_is_no_cookie_but_safe_headers(store):
    answer = app.create_app(store).server.test_client().get("/")
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("given", ["atoll/board", "/atoll/board", "/atoll/board/"])
def test_behind_a_prefix(store, given):
    client = app.create_app(store, base_path=given).server.test_client()
    assert client.get("/atoll/board/").status_code == 200
    assert client.get("/atoll/board/_dash-layout").status_code == 200
    assert client.get("/").status_code == 404
    assert "/atoll/board/compare" in str(client.get("/atoll/board/_dash-layout").get_json())


def test_what_browsers_load_ahead_is_there(store):
    client = app.create_app(store, base_path="/lab").server.test_client()
    programs = re.findall(r'rel="preload" href="([^"]+)"', client.get("/lab/").text)
    assert len(programs) == 2
    for program in programs:
        assert client.get(program).status_code == 200


@pytest.mark.parametrize("given", ["/a b", "/ü", "/a?b"])
def test_prefixes_that_addresses_would_change_are_refused(store, given):
    with pytest.raises(StoreError, match="a base path may hold letters"):
        app.create_app(store, base_path=given)


def test_strangers_names_do_not_lead_here(store):
    client = app.create_app(store, only_local=True).server.test_client()
    for host in ("localhost:8050", "127.0.0.1", "[::1]:8050"):
        assert client.get("/", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1:8050"):
        assert client.get("/", headers={"Host": host}).status_code == 403
    assert app.create_app(store).server.test_client().get("/", headers={"Host": "proxy.example"}).status_code == 200


def test_gunicorn_needs_a_token_or_the_word_that_none_is_wanted(store, monkeypatch):
    monkeypatch.setenv("ATOLL_STORE", str(store))
    with pytest.raises(StoreError, match="needs ATOLL_DASHBOARD_TOKEN"):
        app.from_environment()
    monkeypatch.setenv("ATOLL_DASHBOARD_TOKEN", "t")
    assert app.from_environment().test_client().get("/").status_code == 403
    monkeypatch.delenv("ATOLL_DASHBOARD_TOKEN")
    monkeypatch.setenv("ATOLL_DASHBOARD_INSECURE", "1")
    monkeypatch.setenv("ATOLL_DASHBOARD_BASE_PATH", "/x")
    assert app.from_environment().test_client().get("/x/").status_code == 200


def test_under_gunicorn_nobody_edits_without_a_token(store, monkeypatch):
    monkeypatch.setenv("ATOLL_STORE", str(store))
    monkeypatch.setenv("ATOLL_DASHBOARD_INSECURE", "1")
    monkeypatch.setenv("ATOLL_DASHBOARD_ALLOW_EDIT", "1")
    with pytest.raises(StoreError, match="only readers with the token may edit"):
        app.from_environment()
    monkeypatch.setenv("ATOLL_DASHBOARD_TOKEN", "t")
    assert app.from_environment().test_client().get("/").status_code == 403


def test_without_a_token_nobody_edits(store):
    with pytest.raises(StoreError, match="only readers with the token may edit: omit --insecure"):
        app.serve(store, "127.0.0.1", 0, insecure=True, allow_edit=True)


@contextmanager
def served(store, output, *options, **environment):
    """`atoll dashboard` on a free port, with standard output to `output`; yields the process when it listens."""
    command = [sys.executable, "-m", "atoll.platform.cli", "dashboard", "--port", "0", "--store", str(store), *options]
    environment = {key: value for key, value in os.environ.items() if key != "SSH_CONNECTION"} | environment
    with subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server
        finally:
            server.send_signal(2)  # as Ctrl-C does
            server.communicate(timeout=30)


def code(address, opener=None):
    try:
        with (opener or urllib.request.build_opener()).open(address, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def printed(file):
    """What a dashboard prints into a file when it has started."""
    for _ in range(600):
        if text := file.read_text():
            return text
        time.sleep(0.1)
    raise AssertionError("nothing was printed")


@pytest.mark.process
def test_every_user_of_this_machine_needs_the_token(store):
    """Such as those of a login node, who all reach 127.0.0.1."""
    with served(store, subprocess.PIPE, SSH_CONNECTION="10.0.0.1 50000 10.0.0.2 22") as server:
        tunnel, told = server.stdout.readline(), server.stdout.readline()
        link = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S{40,}$", told)
        assert tunnel.split(": ")[1] == f"ssh -L {link[1]}:127.0.0.1:{link[1]} {socket.gethostname()}\n"
        assert code(f"http://127.0.0.1:{link[1]}/") == 403
        assert code(link[0], urllib.request.build_opener(urllib.request.HTTPCookieProcessor())) == 200
        with open(f"/proc/{server.pid}/cmdline") as arguments:
            assert link[0].partition("=")[2] not in arguments.read()


@pytest.mark.process
@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_that_others_read_has_no_token(store, tmp_path, as_json):
    log = tmp_path / "slurm-7.out"
    log.touch()
    log.chmod(0o640)
    with log.open("w") as output, served(store, output, *["--json"] * as_json, XDG_STATE_HOME=str(tmp_path)) as server:
        told = printed(log)
        (file,) = (tmp_path / "atoll").iterdir()
        assert str(file) in told
        assert "token=" not in told
        if as_json:
            assert json.loads(told)["link_file"] == str(file)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
        link = file.read_text().strip()
        assert code(link, urllib.request.build_opener(urllib.request.HTTPCookieProcessor())) == 200
        assert server.poll() is None
    assert not file.exists()


@pytest.mark.process
def test_a_log_of_ones_own_has_the_link(store, tmp_path):
    log = tmp_path / "own.log"
    log.touch(mode=0o600)
    environment = {"XDG_STATE_HOME": str(tmp_path), "ATOLL_DASHBOARD_TOKEN": "kept in my profile"}
    with log.open("w") as output, served(store, output, **environment):
        assert printed(log).endswith("/?token=kept+in+my+profile\n")
    assert not (tmp_path / "atoll").exists()


@pytest.mark.process
def test_a_link_that_cannot_be_kept_from_others_is_not_printed(store, tmp_path):
    log = tmp_path / "slurm-7.out"
    log.touch()
    log.chmod(0o644)
    with log.open("w") as output, served(store, output, XDG_STATE_HOME="/dev/null") as server:
        told = server.stderr.read()
    assert "the link with the token must go to a private file, and /dev/null/atoll/dashboard-" in told
    assert "token=" not in log.read_text() + told
