"""Send one task and await its result. Run `aiotask run tasks` in another terminal, then `python send.py`."""

import asyncio

from tasks import add, app


async def main() -> None:
    async with app:
        result = await add.delay(2, 3)
        print("sent", result.id)
        print("2 + 3 =", await result.get(timeout=10))


asyncio.run(main())
