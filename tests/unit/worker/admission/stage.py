"""An admission whose neighbours are played."""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiotask import AioTask
from aiotask.exceptions import BrokerError
from aiotask.message import Delivery, Start, TaskMessage, Verdict
from aiotask.outcome import Failed, Outcome
from aiotask.worker.admission import Admission
from aiotask.worker.execution import Execution
from aiotask.worker.lines import Lines
from aiotask.worker.slots import Slots


class Judge:
    """A subscription's `begin`: RUN but for the ids in `verdicts`; waits for `open`."""

    def __init__(self) -> None:
        self.begun: list[list[Start]] = []
        self.verdicts: dict[str, Verdict] = {}
        self.failure: BrokerError | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        self.begun.append(list(batch))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [self.verdicts.get(start.delivery.id, Verdict.RUN) for start in batch]

    @property
    def batches(self) -> list[list[str]]:
        return [[start.delivery.id for start in batch] for batch in self.begun]


class Stage:
    """An admission whose neighbours the test plays."""

    def __init__(self, limit: int = 3, budget: int | None = None, at_once: int | None = None, **settings: Any) -> None:
        self.app = AioTask("proj", broker="memory://", **settings)

        @self.app.task(name="proj.add")
        async def add(x: int, y: int) -> int:
            return x + y

        @self.app.task(name="proj.late", acks_late=True)
        async def late(*args: Any) -> None: ...

        @self.app.task(name="proj.pair", concurrency=2)
        async def pair(x: int, y: int) -> None: ...

        self.judge = Judge()
        self.revoked: set[str] = set()
        self.slots = Slots(limit)
        self.started: list[Execution] = []
        self.concluded: list[tuple[Execution, Outcome]] = []
        self.forgotten: list[Execution] = []
        judge: Any = self.judge
        self.lines = Lines(self.app.tasks, judge, self.offer_parked, lambda: True)
        self.lines._waiting.clear()  # as after its first look
        self.admission = Admission(
            self.app,
            judge,
            self.slots,
            self.lines,
            self.started.append,
            lambda execution, outcome: self.concluded.append((execution, outcome)),
            self.forgotten.append,
            budget,
            at_once,
            self.revoked,
        )
        self.running = asyncio.create_task(self.admission.run())

    def delivery(self, id_: str, task: str = "proj.add", payload: bytes = b"[[1,2],{}]", **fields: Any) -> Delivery:
        body = self.app.codec.encode(TaskMessage(task, id_, payload))
        defaults = {"queue": "mail", "body": body, "content_type": self.app.codec.content_type, "priority": 5}
        return Delivery(id_, receipt=id_, **{**defaults, **fields})

    def offer_parked(self, deliveries: list[Delivery]) -> None:
        self.admission.offer(deliveries)

    def suspect(self, id_: str, losses: int) -> Delivery:
        return self.delivery(id_, "proj.late", losses=losses)

    def offer(self, *deliveries: Delivery) -> None:
        self.admission.offer(list(deliveries))

    async def settle(self) -> None:
        """Let the stage do all that it can do now."""
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def started_ids(self) -> list[str]:
        return [execution.delivery.id for execution in self.started]

    def refused(self) -> Failed:
        """Return the one refusal; its message is a dead letter."""
        [(_, outcome)] = self.concluded
        assert isinstance(outcome, Failed)
        assert outcome.dead
        assert self.judge.begun == []
        return outcome
