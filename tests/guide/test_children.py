"""A result knows the tasks that its task has sent, and a request knows where it comes from."""

from aiotask import AioTask, Task


async def test_result_has_the_children_in_the_order_of_sending(app: AioTask) -> None:
    @app.task(name="proj.child")
    async def child(x: int) -> int:
        return x

    @app.task(bind=True)
    async def parent(self: Task) -> list[str]:
        first = await child.delay(1)
        rest = await child.send_many([(2,), (3,)])
        named = await app.send_task("proj.child", (4,))
        assert self.request.children == [first.id, *(result.id for result in rest), named.id]
        return self.request.children

    @app.task
    def plain_parent() -> str:
        return child.sync.delay(5).id

    async with app.worker():
        result = await parent.delay()
        ids = await result.get(timeout=10)
        children = await result.children()
        assert [found.id for found in children] == ids
        assert [await found.get(timeout=10) for found in children] == [1, 2, 3, 4]
        plain = await plain_parent.delay()
        only = await plain.get(timeout=10)
        assert [found.id for found in await plain.children()] == [only]


async def test_result_has_no_children_when_the_task_leaves_no_trail(app: AioTask) -> None:
    @app.task
    async def child() -> None: ...

    @app.task(trail=False)
    async def parent() -> None:
        await child.delay()

    async with app.worker():
        result = await parent.delay()
        await result.get(timeout=10)
        assert await result.children() == []
