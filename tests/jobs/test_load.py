"""Many clients at once. How fast they are answered is the benchmark's business: benchmarks/load."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.load import BY_ADDRESS, Visit, at_once, faults, in_turn, play, running, split
from tests.ports import free_port

CLIENTS, JOBS = 200, 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("visit", [at_once, in_turn])
def test_a_thousand_jobs_of_two_hundred_clients_are_made_once_and_in_order(visit: Visit) -> None:
    async def load() -> tuple[int, tuple[int, int]]:
        with running(free_port(), JOBS) as server:
            await server.until_ready()
            seen = await play(server, visit, BY_ADDRESS, split(JOBS, CLIENTS))
            return len(seen.handed_in), faults(server, seen)

    assert asyncio.run(load()) == (JOBS, (0, 0))
