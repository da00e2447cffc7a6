"The short form of the suite; `make faults` runs the long one and writes the table that the site shows"
import jobs
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [name for name, job in jobs.JOBS.items() if job["short"]])
def test_survives(name):
    row, failed = jobs.run(name, jobs.JOBS[name]["short"])
    assert not failed and row["survived"] == row["tried"], failed[:10]
