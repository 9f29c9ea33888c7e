"""A function of a communicator gets a proxy of it: the function in a thread of its own, the rank in this one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from atoll.communication.channel import Channel, wait_for
from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.communication.proxy import ProxyCommunicator, ProxyLink
from atoll.communication.proxy_host import ProxyHost


def proxied(function: Callable[[Communicator], Any]) -> Callable[[Communicator], Any]:
    """The same function of a communicator, whose operations this rank carries out."""

    def on_rank(real: Communicator) -> Any:
        mine, others = Channel.pair()
        host, returned, raised, interruptions = ProxyHost(mine, real), [], [], []

        def poll() -> None:
            if interruptions:
                raise interruptions[0]

        def call() -> None:
            link = ProxyLink(others)
            proxy = ProxyCommunicator(
                link, 0, real.rank, real.nodes, real.members, ledger=Ledger(), poll=poll, services=[]
            )
            try:
                returned.append(function(proxy))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        while thread.is_alive():
            try:
                real.poll()
            except Exception as reason:
                interruptions.append(reason)
            for message in mine.receive():
                assert host.handle(message), message
            host.step()
            wait_for([mine], 1e-4 if host.is_busy else 1e-2)
        for message in mine.receive():  # what it has posted last
            host.handle(message)
        while host.step():
            pass
        thread.join()
        if raised:
            raise raised[0]
        return returned[0]

    return on_rank
