"""Reads a run's TensorBoard files with TensorBoard itself and compares them with its jsonl files.

    pip install tensorboard
    python scripts/check-tensorboard.py RUN_DIR

Exits 1 if a step is missing, doubled, or another number (to f32) than in the files.
"""

import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OF_STEP = {
    "loss": "loss/train",
    "projected_grad": "projected_grad",
    "lr": "lr",
    "step_ms": "step_ms",
    "device_peak_bytes": "device_bytes",
    "rss_bytes": "rss_bytes",
}
OF_EVALUATION = {
    "loss": "loss/eval",
    "accuracy": "accuracy/eval",
    "f1": "f1/eval",
    "exact_match": "exact_match/eval",
}


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def expected(path, names):
    scalars = {}
    if os.path.exists(path):
        for line in open(path, encoding="utf8"):
            entry = json.loads(line)
            for field, tag in names.items():
                if entry.get(field) is not None:
                    scalars.setdefault(tag, []).append((entry["step"], f32(entry[field])))
    return scalars


def main(run):
    accumulator = EventAccumulator(os.path.join(run, "runs"), size_guidance={"scalars": 0})
    accumulator.Reload()
    want = {
        **expected(os.path.join(run, "metrics.jsonl"), OF_STEP),
        **expected(os.path.join(run, "evals.jsonl"), OF_EVALUATION),
    }
    tags = accumulator.Tags()["scalars"]
    found = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}
    wrong = [tag for tag in sorted({*want, *found}) if want.get(tag) != found.get(tag)]
    for tag in wrong:
        print(f"{tag}: expected {want.get(tag, [])[-3:]} ... found {found.get(tag, [])[-3:]}")
    for tag in sorted(found):
        print(f"{tag:22s} {len(found[tag]):6d} points, steps {found[tag][0][0]} to {found[tag][-1][0]}")
    sys.exit(1 if wrong or not found else 0)


if __name__ == "__main__":
    main(sys.argv[1])
