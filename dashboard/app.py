"""The Dash app, the frame around its pages, and its servers."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlencode

import dash
import dash_mantine_components as dmc
import flask
from dash import ALL, ClientsideFunction, Input, Output, State, dcc, html
from werkzeug.serving import make_server

from atoll.dashboard import access, link, malformed
from atoll.dashboard.context import Context
from atoll.dashboard.pages import PAGES
from atoll.storage.store import DEFAULT_URL, Store, StoreError


def create_app(
    store: Store,
    *,
    token: str | None = None,
    only_local: bool = False,
    allow_edit: bool = False,
    base_path: str = "/",
) -> dash.Dash:
    """The app over `store`.

    Args:
        store: the results to show.
        token: readers must have it; None lets in everyone who reaches the address.
        only_local: whether to answer only requests for this machine's own names.
        allow_edit: whether readers may rename and archive studies and write notes.
        base_path: the path behind a reverse proxy, which passes it on unchanged.
    """
    context = Context(store, base_path=normalized(base_path), allow_edit=allow_edit)
    app = dash.Dash(
        __name__,
        use_pages=True,
        pages_folder="",
        title="atoll",
        update_title="",
        suppress_callback_exceptions=True,
        url_base_pathname=context.base_path,
    )
    access.protect(app.server, token, only_local=only_local)
    malformed.refuse(app.server)
    _preload(app, context)
    _add_pages(app, context)
    app.layout = lambda: frame(context)
    app.clientside_callback(
        ClientsideFunction("atoll", "theme"),
        Output("provider", "forceColorScheme"),
        Output("theme", "data"),
        Output("theme-toggle", "children"),
        Input("theme-toggle", "n_clicks"),
        State("theme", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("atoll", "download"),
        Output("downloaded", "data"),
        Input({"type": "download", "figure": ALL, "format": ALL}, "n_clicks"),
    )
    return app


def _add_pages(app: dash.Dash, context: Context) -> None:
    """Add the pages in `PAGES`."""
    for page in PAGES:
        module = importlib.import_module(page.module)
        layout = functools.partial(module.page, context)
        dash.register_page(page.module, path=page.path, name=page.title, title=f"{page.title} · atoll", layout=layout)
        module.register(app, context)


def _preload(app: dash.Dash, context: Context) -> None:
    """Have browsers preload the programs that Dash loads late: half of ag-grid, and plotly.js."""
    suites = f"{context.base_path}_dash-component-suites"
    late = [f"{suites}/dash_ag_grid/async-community.js", f"{suites}/plotly/package_data/plotly.min.js"]
    links = [f'<link rel="preload" href="{href}" as="script" fetchpriority="low">' for href in late]
    app.index_string = app.index_string.replace("<html>", '<html lang="en">').replace(
        "{%css%}", "\n        ".join([*links, "{%css%}"])
    )


def frame(context: Context) -> dmc.MantineProvider:
    """The frame around every page."""
    links = [
        dcc.Link(page.link, href=context.link(page.path.lstrip("/")), className="nav") for page in PAGES if page.link
    ]
    return dmc.MantineProvider(
        dmc.AppShell(
            [
                dmc.AppShellHeader(
                    dmc.Group(
                        [
                            dmc.Group(
                                [dcc.Link("atoll", href=context.link(), className="brand"), html.Nav(links)], gap="xl"
                            ),
                            dmc.Group(
                                [
                                    dmc.Text(str(context.store), size="sm", className="dimmed store", lineClamp=1),
                                    dmc.Button("Theme", id="theme-toggle", variant="default", size="compact-sm"),
                                ]
                            ),
                        ],
                        h="100%",
                        px="md",
                        justify="space-between",
                        wrap="nowrap",
                    )
                ),
                dmc.AppShellMain(dash.page_container),
                dcc.Store(id="theme", storage_type="local"),
                dcc.Store(id="downloaded"),
            ],
            header={"height": 52},
            padding="md",
        ),
        id="provider",
    )


def normalized(base_path: str) -> str:
    """A base path with a slash at both ends. Raises StoreError if addresses would have to escape it."""
    inner = base_path.strip("/")
    if not re.fullmatch(r"[\w.~/-]*", inner, re.ASCII):
        raise StoreError(f"a base path may hold letters, digits and - _ . ~ /, such as /lab/atoll; got {base_path!r}")
    return f"/{inner}/" if inner else "/"


def serve(
    store: Store,
    host: str,
    port: int,
    *,
    as_json: bool = False,
    insecure: bool = False,
    allow_edit: bool = False,
    base_path: str = "/",
) -> None:
    """Serve the dashboard until it is interrupted; port 0 chooses a free port.

    Readers need the token, ATOLL_DASHBOARD_TOKEN or a new one, also on this machine: all of its users reach 127.0.0.1.
    `insecure` lifts this.

    Raises:
        StoreError: if readers without a token could edit, or the link cannot be kept from others.
    """
    token = None if insecure else os.environ.get("ATOLL_DASHBOARD_TOKEN") or access.new_token()
    access.check_edit(token, allow_edit=allow_edit)
    only_local = access.is_local(host) and not insecure
    app = create_app(store, token=token, only_local=only_local, allow_edit=allow_edit, base_path=base_path)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server(host, port, app.server, threaded=True)  # listens from here on
    _exempt_from_garbage_collection()
    try:
        with _told(store, host, server.port, normalized(base_path), token, as_json=as_json):
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


@contextlib.contextmanager
def _told(store: Store, host: str, port: int, base_path: str, token: str | None, *, as_json: bool) -> Iterator[None]:
    """Print the address; with the token, unless others can read what is printed."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}{base_path}"
    if access.is_local(host) and os.environ.get("SSH_CONNECTION") and not as_json:
        print(f"to reach it from your own machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}")
    if token is None or not link.others_can_read(sys.stdout):
        url = url.rstrip("/") if token is None else f"{url}?{urlencode({'token': token})}"
        print(json.dumps({"url": url}) if as_json else f"the dashboard of {store} is at {url}", flush=True)
        yield
        return
    with link.kept(f"{url}?{urlencode({'token': token})}", port) as file:
        why = f"others can read this output, so the link with its token is in {file}"
        told = f"the dashboard of {store} is at {url}; {why}"
        print(json.dumps({"url": url, "link_file": str(file)}) if as_json else told, flush=True)
        yield


def _exempt_from_garbage_collection() -> None:
    """Exclude everything loaded so far from garbage collection, in the whole process.

    Reading a large study creates millions of objects, and so starts many full collections. Each would traverse the
    modules and the app as well, which stay until the process ends. Only servers call this: no caller of `create_app`,
    such as a test, has its garbage collection changed.
    """
    gc.freeze()


def from_environment() -> flask.Flask:
    """For gunicorn: the app of ATOLL_STORE, with the token of ATOLL_DASHBOARD_TOKEN.

    ATOLL_DASHBOARD_INSECURE=1 allows access without a token, ATOLL_DASHBOARD_ALLOW_EDIT=1 lets readers edit, and
    ATOLL_DASHBOARD_BASE_PATH is the path behind a reverse proxy.

    Raises:
        StoreError: there is no token, and ATOLL_DASHBOARD_INSECURE is not 1, or readers are to edit.
    """
    token = os.environ.get("ATOLL_DASHBOARD_TOKEN") or None
    if token is None and os.environ.get("ATOLL_DASHBOARD_INSECURE") != "1":
        raise StoreError(
            "a dashboard under gunicorn needs ATOLL_DASHBOARD_TOKEN, which readers must know, or "
            "ATOLL_DASHBOARD_INSECURE=1 if something else controls access"
        )
    allow_edit = os.environ.get("ATOLL_DASHBOARD_ALLOW_EDIT") == "1"
    access.check_edit(token, allow_edit=allow_edit)
    store = Store(os.environ.get("ATOLL_STORE") or DEFAULT_URL, create=False, read_only=not allow_edit)
    server: flask.Flask = create_app(
        store,
        token=token,
        allow_edit=allow_edit,
        base_path=os.environ.get("ATOLL_DASHBOARD_BASE_PATH") or "/",
    ).server
    _exempt_from_garbage_collection()
    return server
