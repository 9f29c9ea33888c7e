"""The Dash app: the frame around the pages, and its server."""

from __future__ import annotations

import json
import logging
import socket

import dash
import dash_mantine_components as dmc
from dash import dcc

from atoll.dashboard.pages import studies, study
from atoll.storage.store import Store


def create_app(store: Store) -> dash.Dash:
    """The app over `store`."""
    app = dash.Dash(
        __name__, use_pages=True, pages_folder="", title="atoll", update_title="", suppress_callback_exceptions=True
    )
    for page in (studies, study):
        page.register(app, store)
    app.layout = dmc.MantineProvider(
        dmc.AppShell(
            [
                dmc.AppShellHeader(
                    dmc.Group(
                        [
                            dmc.Anchor("atoll", href="/", fw=700, size="xl", underline="never"),
                            dmc.Text(str(store), c="dimmed", size="sm"),
                        ],
                        h="100%",
                        px="md",
                    )
                ),
                dmc.AppShellMain(dash.page_container),
                dcc.Location(id="location"),
            ],
            header={"height": 56},
            padding="md",
        )
    )
    return app


def serve(store: Store, host: str, port: int, as_json: bool = False) -> None:
    """Serve the dashboard until it is interrupted; port 0 takes any free one."""
    if port == 0:
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    url = f"http://{host}:{port}"
    print(json.dumps({"url": url}) if as_json else f"the dashboard of {store} is at {url}", flush=True)
    create_app(store).run(host=host, port=port, debug=False)
