"""The README's programs are run as they stand there."""

import asyncio
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

README = Path(__file__).parents[2] / "README.md"
TASKS, SENDER, WEB = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS, encoding="utf-8")
    (tmp_path / "sender.py").write_text(SENDER, encoding="utf-8")
    (tmp_path / "web.py").write_text(WEB, encoding="utf-8")
    return tmp_path


def aiotask(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOTASK_")}
    command = [sys.executable, *words]
    return subprocess.run(
        command, check=False, cwd=project, env=environment, capture_output=True, text=True, timeout=40
    )


def test_readme_commands_print_the_result_when_a_worker_runs(project: Path) -> None:
    sent = aiotask(project, "-m", "aiotask", "call", "tasks.add", "2", "3", "--app", "tasks")
    assert sent.returncode == 0, sent.stderr
    ran = aiotask(project, "-m", "aiotask", "run", "tasks", "--burst")
    assert ran.returncode == 0, ran.stderr
    told = aiotask(project, "-m", "aiotask", "result", sent.stdout.strip(), "--wait", "--app", "tasks")
    assert told.stdout.strip() == "5", told.stderr


def test_readme_sender_prints_both_results_when_a_worker_runs(project: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-m", "aiotask", "run", "tasks"], cwd=project, stderr=subprocess.DEVNULL)
    try:
        assert aiotask(project, "sender.py").stdout.split() == ["5", "5"]
    finally:
        worker.terminate()
        worker.wait(20)


async def test_readme_service_answers_with_the_sum_when_the_worker_is_embedded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    for name in ("tasks", "web"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    web = importlib.import_module("web").web
    transport = httpx2.ASGITransport(app=web)
    async with (
        web.router.lifespan_context(web),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        task_id = (await client.post("/sums", params={"x": 2, "y": 3})).json()["id"]
        async with asyncio.timeout(20):
            while (answer := (await client.get(f"/sums/{task_id}")).json())["state"] != "SUCCESS":
                await asyncio.sleep(0.01)
    assert answer["result"] == 5
    for name in ("tasks", "web"):
        sys.modules.pop(name, None)
