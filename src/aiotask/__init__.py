"""The task runtime for asyncio services."""
