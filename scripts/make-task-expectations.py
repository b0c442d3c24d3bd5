"""Writes test/fixtures/tasks/expected.json: what MeZO's own code makes of the rows beside it.

    python3 -m venv .venv && .venv/bin/pip install numpy
    git clone https://github.com/princeton-nlp/MeZO
    .venv/bin/python scripts/make-task-expectations.py MeZO/large_models

Runs the project's templates, tasks, sampling, `encode_prompt` and metrics as they are; `datasets`,
`torch` and `transformers`, which these parts only name, are replaced by empty modules. The tokenizer
is one token per character after BOS 0, so that the test can have the same.
"""
import json
import sys
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent.parent / "test/fixtures/tasks"
NAMES = {"sst2": "SST2", "rte": "RTE", "cb": "CB", "boolq": "BoolQ", "wsc": "WSC", "wic": "WIC",
         "multirc": "MultiRC", "copa": "Copa", "record": "ReCoRD", "squad": "SQuAD", "drop": "DROP"}
CONFIGS = {"wsc.fixed": "wsc"}


class Empty(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for module in ["torch", "torch.nn", "torch.nn.functional", "transformers", "transformers.utils",
               "transformers.modeling_outputs", "transformers.data", "transformers.data.data_collator",
               "transformers.tokenization_utils_base"]:
    sys.modules[module] = Empty(module)
    parent, _, child = module.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, sys.modules[module])


def load_dataset(name, config=None):
    folder = HERE / CONFIGS.get(config, config or name)
    read = lambda split: [json.loads(line) for line in (folder / f"{split}.jsonl").open()]
    return {"train": read("train"), "validation": read("validation")}


sys.modules["datasets"] = datasets = Empty("datasets")
datasets.load_dataset = load_dataset
sys.path.insert(0, sys.argv[1])

from metrics import calculate_metric, f1  # noqa: E402
from tasks import get_task  # noqa: E402
from utils import Prediction, encode_prompt  # noqa: E402


class Characters:
    add_bos_token = True

    def encode(self, text, add_special_tokens=True):
        return [0] + [ord(c) for c in text]


def encoded(task, shown, sample, **how):
    ids, lengths = encode_prompt(task, task.get_template(), shown, sample, Characters(),
                                 how.pop("max_length", 2000), generation=task.generation, **how)
    assert all(row[0] == 0 for row in ids)
    return {"texts": ["".join(map(chr, row[1:])) for row in ids], "answer_lengths": lengths}


def case(task, sample, shown):
    both = [] if task.generation else [{"sfc": True}, {"icl_sfc": True}]
    gold = {"generation_with_gold": True} if task.generation else {}
    right = sample.correct_candidate
    if not task.generation:
        right = [sample.candidates.index(c) for c in (right if isinstance(right, list) else [right])]
    return {
        "right": right,
        "plain": encoded(task, [], sample, **gold),
        "cut": encoded(task, [], sample, max_length=40, **gold),
        "shown": encoded(task, shown, sample, **gold),
        **({"prompt": encoded(task, shown, sample, max_length=110, max_new_tokens=50)} if task.generation else {}),
        **{next(iter(how)): encoded(task, shown, sample, **how) for how in both},
    }


tasks = {}
for name, their_name in NAMES.items():
    task = get_task(their_name)
    valid = task.samples["valid"]
    drawn = task.sample_train_sets(num_train=2, num_dev=1, seed=3)[0]
    train, dev = drawn[:-1], drawn[-1:]
    position = lambda split, s: next(i for i, other in enumerate(task.samples[split]) if other is s)
    tasks[name] = {
        "train_rows": [position("train", s) for s in train],
        "dev_rows": [position("train", s) for s in dev],
        "eval_rows": [position("valid", s) for s in task.sample_subset("valid", seed=3, num=1000)],
        "metric": getattr(task, "metric_name", "accuracy"),
        "cases": [case(task, sample, train) for sample in valid],
    }

ANSWERS = [
    ["The Aar and the Doll!", ["the Aar and the Doll", "the Aar"]], ["the cat sat", ["a cat", "dog"]],
    ["cat cat dog", ["cat dog dog"]], ["", ["nothing"]], ["", [""]], ["the", ["a"]],
    ["12-yard", ["12 yard"]], ["12-yard", ["12yard"]], ["Santa Clara, California.", ["Santa Clara", "Levi's Stadium"]],
    ["no answer", ["no answer"]], ["an answer", ["no answer", "answer"]], ["CANNOTANSWER", ["CANNOTANSWER", "x"]],
    ["théâtre a la mode", ["theatre à la mode"]], ["a  b\tc\n", ["B C"]], ["1,200 people", ["1200"]],
    ["\u201cquoted\u201d", ["quoted"]], ["étéa the", ["étéa"]], ["the_end", ["theend"]],
]
scores = []
for answer, golds in ANSWERS:
    prediction = [Prediction(correct_candidate=golds, predicted_candidate=answer)]
    scores.append({"answer": answer, "golds": golds, "f1": float(f1(answer, golds)),
                   "em": bool(calculate_metric(prediction, "em"))})

permutations = []
for seed, length, keep in [(0, 10, 10), (0, 67349, 12), (1, 1000, 12), (42, 7, 7), (2**32 - 1, 33, 33), (3, 1, 1), (100, 100730, 12)]:
    np.random.seed(seed)
    permutations.append({"seed": seed, "length": length, "first": np.random.permutation(length)[:keep].tolist()})

result = {"tasks": tasks, "scores": scores, "permutations": permutations}
(HERE / "expected.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
