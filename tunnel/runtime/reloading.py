"""Reloads of a running daemon: one at a time, all of new settings or nothing of them."""

import asyncio
from collections.abc import Callable
from typing import Generic, NoReturn, Protocol, TypeVar

from tunnel.errors import ListenFailed, SettingsError, TunnelError
from tunnel.log import get_log
from tunnel.runtime.logs import set_up_logs
from tunnel.settings.places import NOTHING, Found
from tunnel.settings.reload import ReloadOutcome, ReloadPlan, plan_reload
from tunnel.settings.values import ClientSettings, RelaySettings

S = TypeVar("S", RelaySettings, ClientSettings)

log = get_log(__name__)


class Reloadable(Protocol[S]):
    """What runs on settings, and can go on with others."""

    @property
    def settings(self) -> S:
        """The settings in force."""

    async def reload(self, settings: S) -> ReloadPlan:
        """Bring other settings into force and return what was different.

        Raises SettingsError or ListenFailed, and has changed nothing then.
        """


class Reloader(Generic[S]):
    """Reads settings anew and brings them into force in `daemon`.

    `program` is relay or client. `read` is run in a thread; it raises SettingsError, or OSError
    for a file that cannot be read.
    """

    def __init__(self, program: str, daemon: Reloadable[S], read: Callable[[], Found[S]]) -> None:
        self._program = program
        self._daemon: Reloadable[S] = daemon
        self._read: Callable[[], Found[S]] = read
        self._fixed = NOTHING  # of the settings in force, as far as they were read here
        self._turn = asyncio.Lock()
        self._begun = 0  # reloads so far
        self._outcome = ReloadOutcome()

    async def reload(self, *, dry_run: bool = False) -> ReloadOutcome:
        """Return what came of a reload that began after this call; never raises.

        Whoever asks while one is under way shares the next with all others who do. With `dry_run`
        nothing is changed, and the settings are only read.
        """
        if dry_run:
            return await self._look()
        wanted = self._begun + 1
        async with self._turn:
            if self._begun < wanted:
                self._begun += 1
                try:
                    self._outcome = await self._apply()
                except BaseException:  # cancelled: the others have still to be served
                    self._begun -= 1
                    raise
            return self._outcome

    async def follow(self, asked: asyncio.Event, started: asyncio.Event) -> NoReturn:
        """Reload whenever `asked` is set, once for all that ask meanwhile.

        That begins once the daemon has `started`, with whatever was changed since it was told
        what to run on.
        """
        await started.wait()
        if await self._is_behind():
            asked.set()
        while True:
            await asked.wait()
            asked.clear()
            await self.reload()

    async def _is_behind(self) -> bool:
        """Say whether there are other settings, which could be used."""
        outcome = await self._look()
        return bool(outcome.plan) and not outcome.faults

    async def _look(self) -> ReloadOutcome:
        plan: ReloadPlan | None = None
        try:
            found = await self._read_now()
            plan = plan_reload(self._daemon.settings, found.settings)
            self._check(plan, found)
        except SettingsError as error:
            return ReloadOutcome(plan, error.faults)
        except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
            log.error("settings not read", exception=error)
            return ReloadOutcome(None, (_own_fault(error),))
        return ReloadOutcome(plan)

    async def _apply(self) -> ReloadOutcome:
        plan: ReloadPlan | None = None
        is_applied = False
        try:
            found = await self._read_now()
            plan = plan_reload(self._daemon.settings, found.settings)
            self._check(plan, found)
            before = self._daemon.settings.log
            plan = await self._bring(found)
            is_applied = True
            if found.settings.log != before:
                set_up_logs(found.settings.log, identifier=f"tunnel-{self._program}")
        except TunnelError as error:
            return _refused(plan, error)
        except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
            log.error("reload failed", exception=error)
            return ReloadOutcome(plan, (_own_fault(error),), is_applied=is_applied)
        log.info("reloaded", changed=plan)
        return ReloadOutcome(plan, is_applied=True)

    async def _read_now(self) -> Found[S]:
        """Return what there is now; raises SettingsError."""
        try:
            return await asyncio.to_thread(self._read)
        except OSError as error:
            raise SettingsError([_unreadable(error)]) from error

    def _check(self, plan: ReloadPlan, found: Found[S]) -> None:
        """Raise SettingsError for what takes a restart."""
        if plan.restart_required:
            raise SettingsError([*found.restart_faults(plan.restart_required, self._fixed)])
        self._fixed = found.fixed

    async def _bring(self, found: Found[S]) -> ReloadPlan:
        """Bring settings into force and return what was different; raises as the daemon does."""
        try:
            return await self._daemon.reload(found.settings)
        except ListenFailed as error:
            raise ListenFailed(found.placed(error.key, str(error)), error.key) from error


def _own_fault(error: Exception) -> str:
    return f"a fault of its own: {error!r}"


def _unreadable(error: OSError) -> str:
    """Say which file cannot be read and why, as far as the error knows."""
    subject = "the settings" if error.filename is None else error.filename
    return f"{subject}: cannot be read: {error.strerror or repr(error)}"


def _refused(plan: ReloadPlan | None, error: TunnelError) -> ReloadOutcome:
    faults = error.faults if isinstance(error, SettingsError) else (str(error),)
    for fault in faults:
        log.error(fault)
    log.error("not reloaded: the settings from before stay in force", faults=len(faults))
    return ReloadOutcome(plan, faults)
