"""The live broker and result backends of one app: made by URL, opened and closed together.

Beside the app's own result backend there are those that tasks have for themselves (the option `backend`). Of one URL
there is one, however many tasks name it; where that is the app's own, it is that one.
"""

from typing import Self

from aiotask.exceptions import BackendConnectionError
from aiotask.protocols import Broker, ResultBackend
from aiotask.schemes import implied_backend, make_backend, make_pair, whole_url
from aiotask.settings import DEFAULT_BROKER_URL, Settings
from aiotask.urls import mask_url


class Adapters:
    """What an app's connections go through, on one event loop."""

    def __init__(self, conf: Settings, origin: "Self | None" = None) -> None:
        """Take the settings; nothing is made yet.

        Args:
            conf: Where the URLs stand.
            origin: Another one of the same app, for another loop; what lives in memory is shared with it.
        """
        self._conf = conf
        self._origin = origin
        self._pair: tuple[Broker, ResultBackend] | None = None
        self._urls: tuple[str, str] | None = None
        self._by_url: dict[str, ResultBackend] = {}
        self._wanted: list[str | ResultBackend] = [] if origin is None else origin._wanted
        self._ready = 0
        """How many of the wanted ones are open."""
        self._opened: list[ResultBackend] = []
        """Which of them were opened here, and are to be closed here."""
        self.is_open = False

    @property
    def broker_url(self) -> str:
        """The broker's URL, as it was given."""
        return self._conf.broker_url or DEFAULT_BROKER_URL

    @property
    def backend_url(self) -> str:
        """The app's result backend's URL: as it was given, or what the broker implies."""
        return self._conf.result_backend or implied_backend(self.broker_url)

    @property
    def pair(self) -> tuple[Broker, ResultBackend]:
        """The live broker and the app's result backend; made anew when the URLs have changed while all was closed."""
        urls = self.broker_url, self.backend_url
        if self._pair is None or (not self.is_open and self._urls != urls):
            shared = self._origin is not None and self.broker_url.startswith("memory:")
            self._pair = self._origin.pair if shared and self._origin is not None else make_pair(*urls, self._conf)
            self._urls = urls
            self._by_url.clear()
        return self._pair

    def own(self, wanted: str | ResultBackend) -> ResultBackend:
        """Return the live result backend that a task has named."""
        if not isinstance(wanted, str):
            return wanted
        _, backend = self.pair
        found = self._by_url.get(wanted)
        if found is None:
            found = self._by_url[wanted] = self._find(wanted) or backend
        return found

    def _find(self, url: str) -> ResultBackend | None:
        """Return the backend of a URL that is new here; None when it is the app's."""
        whole = whole_url(url)
        if whole == whole_url(self.backend_url):
            return None
        for known, backend in self._by_url.items():
            if whole_url(known) == whole:
                return backend
        if self._origin is not None and url.startswith("memory:"):
            return self._origin.own(url)
        return make_backend(url, self._conf)

    def want(self, own: str | ResultBackend) -> None:
        """Note that a task has its own result backend, to be opened with the rest."""
        if all(known is not own and known != own for known in self._wanted):
            self._wanted.append(own)

    @property
    def incomplete(self) -> bool:
        """True when a task has come that wants a result backend which is not open."""
        return self._ready < len(self._wanted)

    async def open(self) -> None:
        """Open all of them.

        Raises:
            BrokerConnectionError, BackendConnectionError: One can't be reached; `close` closes the others.
        """
        broker, backend = self.pair
        await broker.open()
        await backend.open()
        await self.open_wanted()
        self.is_open = True

    async def open_wanted(self) -> None:
        """Open what tasks have named and is not open. An instance that is open is its program's to close.

        Raises:
            BackendConnectionError: One can't be reached.
        """
        for wanted in self._wanted[self._ready :]:
            backend = self.own(wanted)
            if not backend.connected:
                await open_own(backend, wanted)
                self._opened.append(backend)
            self._ready += 1

    async def close(self) -> None:
        """Close all that was opened here. Idempotent."""
        self.is_open = False
        self._ready = 0
        opened, self._opened = self._opened, []
        for own in opened:
            await own.close()
        if self._pair is not None:
            broker, backend = self._pair
            await backend.close()
            await broker.close()


async def open_own(backend: ResultBackend, wanted: str | ResultBackend) -> None:
    """Open a result backend that tasks have for themselves, and were given as `wanted`.

    Raises:
        BackendConnectionError: It can't be reached; a note says that it is not the app's.
    """
    try:
        await backend.open()
    except BackendConnectionError as error:
        where = mask_url(whole_url(wanted)) if isinstance(wanted, str) else repr(wanted)
        error.add_note(f"Tried {where}, a result backend that tasks have for themselves (their option backend).")
        raise
