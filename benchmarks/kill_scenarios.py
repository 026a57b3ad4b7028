"""Operations to kill on small real projects, by name: `benchmarks.kills` and `benchmarks.random_kills` use them.

A scenario makes its project once. `act` is the operation (the seed varies its data), `state` returns what readers see,
`again` does what the next start does without a human, `whole` checks what must hold after that. Everything can be
repeated. `points` are the failpoints that `act` reaches. Random kills
take a scenario in each `every`th turn (1 if it names none).
"""

from benchmarks.killing.data import Forget, HardSet, Ingest
from benchmarks.killing.files import Files
from benchmarks.killing.labels import Answers, Classes, Finish
from benchmarks.killing.releases import Gc, Publish, Rollback, Verify
from benchmarks.killing.runs import Keep, Override, Workspace
from benchmarks.killing.services import Up
from benchmarks.killing.stages import STAGE_SCENARIOS

SCENARIOS = {
    found.__name__.lower(): found
    for found in (
        *(Ingest, Publish, Rollback, Gc, Forget, Verify, Workspace, Keep, Override, Files),
        *(Answers, Finish, Classes, HardSet),
    )
}
RANDOM_ONLY = {"up": Up, **STAGE_SCENARIOS}  # of `benchmarks.random_kills`: they take minutes
