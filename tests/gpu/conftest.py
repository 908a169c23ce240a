"""Write each test's result as soon as it is there, to the file that ``benchmarks.gpu`` names."""

import json
import os


def pytest_runtest_logreport(report):
    file = os.environ.get("DISTILL_GPU_RESULTS")
    if file and (report.when == "call" or report.outcome != "passed"):
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        if report.failed:
            row["why"] = str(report.longrepr)[-2000:]
        with open(file, "a") as f:
            f.write(json.dumps(row) + "\n")
