"""Access: readers need the token in the printed link, as with Jupyter, also those on this machine.

On a machine with several users, all of them reach 127.0.0.1. Whether there are others is not asked: they may log in
later. A signed cookie keeps the token after the first visit. Accounts are a reverse proxy's job.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import flask

from atoll.storage.store import StoreError

DAYS = 30


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(32)


def check_edit(token: str | None, *, allow_edit: bool) -> None:
    """Raise StoreError if readers without a token could edit."""
    if allow_edit and token is None:
        raise StoreError(
            "only readers with the token may edit: omit --insecure (under gunicorn: set ATOLL_DASHBOARD_TOKEN), or do "
            "not allow edits"
        )


def protect(server: flask.Flask, token: str | None, *, only_local: bool = False) -> None:
    """Set safe headers; with a token, answer only readers who have it.

    `only_local` rejects requests for another host's name, so that a foreign page cannot reach us by resolving its own
    name to this machine (DNS rebinding).
    """

    @server.after_request
    def _headers(response: flask.Response) -> flask.Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        response.headers["Referrer-Policy"] = "same-origin"  # keeps the token in a link from leaking
        return response

    if only_local:

        @server.before_request
        def _check_host() -> Any:
            name = urlsplit(f"//{flask.request.host}").hostname or ""
            if is_local(name):
                return None
            return "This dashboard accepts only this machine's own names; --insecure accepts all.", 403

    if token is None:
        return
    # Workers of one server share the token and so the key; a new token invalidates old cookies.
    server.secret_key = hmac.digest(token.encode(), b"atoll dashboard cookie", "sha256")
    # Dashboards on other ports of this host need different cookies.
    server.config["SESSION_COOKIE_NAME"] = f"atoll-{hmac.digest(token.encode(), b'name', 'sha256').hex()[:8]}"
    server.config.update(SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Lax")
    server.permanent_session_lifetime = timedelta(days=DAYS)

    @server.before_request
    def _check() -> Any:
        given = flask.request.args.get("token")
        if given is not None and hmac.compare_digest(given.encode(), token.encode()):
            flask.session["known"] = flask.session.permanent = True
            kept = {name: value for name, value in flask.request.args.items() if name != "token"}
            return flask.redirect(f"{flask.request.path}{'?' + urlencode(kept) if kept else ''}")
        if flask.session.get("known"):
            return None
        problem = "This dashboard needs a token."
        if given is not None:
            problem = "The token in the link is not this dashboard's."
        advice = "Open the link that <code>atoll dashboard</code> printed when it started."
        # An open page whose server has another token since it restarted reloads, and shows this: lost_answers.js.
        return f"<!doctype html><title>atoll</title><h1>{problem}</h1><p>{advice}</p>", 403
