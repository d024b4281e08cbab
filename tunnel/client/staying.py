"""The links of one session that stay: what visitors and validations may come through."""

from collections.abc import Callable, Iterable

from tunnel.client.asking import Verdict
from tunnel.client.link import Link


class Staying:
    """Those of `every` link that the relay has welcomed and nobody has asked to leave."""

    def __init__(self, every: Callable[[], Iterable[Link]]) -> None:
        self._every = every

    def __repr__(self) -> str:
        return f"<Staying {len(self.links)} links>"

    @property
    def links(self) -> list[Link]:
        """Each of them now."""
        return [link for link in self._every() if link.is_staying]

    @property
    def peers(self) -> frozenset[str]:
        """The IP addresses that they are connected to."""
        return frozenset(link.peer.host for link in self.links if link.peer is not None)

    def serves(self, name: str) -> bool:
        """Say whether visitors of the name come over one of them."""
        return any(name in link.offers.serving for link in self.links)

    def takes_part(self, name: str) -> bool:
        """Say whether validations of the name may come over one of them."""
        return any(link.offers.takes_part(name) for link in self.links)

    def verdict(self, name: str) -> Verdict | None:
        """Return what the relay says to the expected validation: one yes is enough."""
        verdicts = [link.offers.verdict(name) for link in self.links]
        said = [verdict for verdict in verdicts if verdict is not None]
        return next((verdict for verdict in said if verdict.is_granted), said[0] if said else None)

    def reconsider(self) -> None:
        """Offer anew at once what other validations are expected for by now."""
        for link in self.links:
            link.reconsider()
