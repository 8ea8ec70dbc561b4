"""Prepare the deletions of `relay move` and of `relay migrate --mirror`: refuse what can't be done
before the first byte, and make the step that follows the migration.

Decided here: which settings make which step. Never here: the steps (`move_step.py`,
`mirror_step.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from relay.cli.mirror_step import MirrorStep, locate_trash
from relay.cli.move_step import MoveStep, refuse_unmovable
from relay.cli.removal_run import RemovalStep
from relay.config import Settings
from relay.engine.migration_request import MigrationRequest
from relay.engine.removal.mirror_removal import require_mirror
from relay.engine.transfer_engine import TransferEngine
from relay.ledger.deletion_values import MirrorSettings, RemovalSettings
from relay.ledger.ledger import Ledger
from relay.location import Location
from relay.sorting.spill import SpillSpace
from relay.stores.remotes import Remotes


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The deletions that one command asks for."""

    order: MigrationRequest
    places: tuple[Location, Location]
    settings: RemovalSettings | MirrorSettings
    trash: Location | None

    @classmethod
    def of(
        cls,
        order: MigrationRequest,
        places: tuple[Location, Location],
        settings: RemovalSettings | MirrorSettings,
        remotes: Remotes,
    ) -> Removal:
        """Return the deletions that settings ask for. Raises as locate_trash."""
        trash = None
        if isinstance(settings, MirrorSettings) and settings.trash is not None:
            trash = locate_trash(order, settings.trash, remotes)
        return cls(order=order, places=places, settings=settings, trash=trash)

    def require_possible(self, engine: TransferEngine) -> None:
        """Raise an error if the objects can't be deleted. Raises as refuse_unmovable and
        require_mirror."""
        if isinstance(self.settings, RemovalSettings):
            refuse_unmovable(engine, self.order, self.places, self.settings)
        else:
            require_mirror(engine, *self.places)

    def step(
        self, ledger: Ledger, engine: TransferEngine, settings: Settings, *, quiet: bool
    ) -> RemovalStep:
        """Return the step that follows the migration."""
        if isinstance(self.settings, RemovalSettings):
            return MoveStep(
                ledger, engine, self.order, self.settings, places=self.places, quiet=quiet
            )
        return MirrorStep(
            ledger,
            engine,
            self.order,
            self.settings,
            places=self.places,
            space=SpillSpace(settings.spill_folder(), settings.spill_bytes),
            trash=self.trash,
            quiet=quiet,
        )
