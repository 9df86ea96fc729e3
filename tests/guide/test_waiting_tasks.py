"""A task that waits for another's result lends its slot, so that parents can't starve their children."""

from aiotask import AioTask


async def test_parents_in_every_slot_get_their_childrens_results(app: AioTask) -> None:
    @app.task
    async def child(x: int) -> int:
        return x + 1

    @app.task
    async def parent(x: int) -> int:
        return await (await child.delay(x))

    async with app.worker(concurrency=10):
        results = await parent.send_many([(x,) for x in range(30)])
        assert [await result.get(timeout=20) for result in results] == list(range(1, 31))


async def test_parents_in_every_thread_get_their_childrens_results(app: AioTask) -> None:
    @app.task
    def child(x: int) -> int:
        return x + 1

    @app.task
    def parent(x: int) -> int:
        return child.sync.delay(x).sync.get(timeout=20)  # type: ignore[no-any-return]

    async with app.worker(concurrency=5, threads=5):
        results = await parent.send_many([(x,) for x in range(15)])
        assert [await result.get(timeout=20) for result in results] == list(range(1, 16))


async def test_grandparents_in_the_only_slot_get_their_results(app: AioTask) -> None:
    @app.task
    async def descend(levels: int) -> int:
        return 0 if levels == 0 else 1 + await (await descend.delay(levels - 1))

    async with app.worker(concurrency=1):
        assert await (await descend.delay(5)).get(timeout=20) == 5
