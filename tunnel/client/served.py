"""Which names one relay serves for us, compared with what it served before."""

from collections.abc import Callable, Iterable, Mapping

from tunnel.client import events
from tunnel.client.endpoints import Endpoint, url_of
from tunnel.client.journal import Journal
from tunnel.client.link import Link


class ServedNames:
    """The names that a relay sends visitors for now, over any connection of a session."""

    def __init__(self, server: str, journal: Journal) -> None:
        self._server = server
        self._journal = journal
        self.urls: dict[str, str] = {}  # where visitors find each of them
        self.urls_elsewhere: Callable[[], Mapping[str, str]] = dict  # by whom took this one's place

    def compare(self, links: Iterable[Link], endpoints: Mapping[str, Endpoint]) -> None:
        """Tell which names the relay has begun or ceased to send visitors for."""
        urls = {
            name: url_of(name, link.welcome.granted[name])
            for link in links
            if link.welcome is not None
            for name in link.offers.serving
        }
        before, self.urls = self.urls, urls
        for name in sorted(before.keys() - urls.keys() - self.urls_elsewhere().keys()):
            self._journal.not_serving(name)
        for name, endpoint in endpoints.items():
            if name in urls and name not in before:
                self._journal.serving(
                    events.Serving(
                        endpoint.name, endpoint.keypair.id, name, urls[name], self._server
                    )
                )
