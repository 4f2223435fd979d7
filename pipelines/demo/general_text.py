"""Write the demo's general text: held passages to measure forgetting on, and anchor prompts to replay against it.

The passages are worked questions from 57 subjects that the wheel `lm-eval` (MIT) ships for its MMLU tasks; none is ever
trained on. The anchors are plain requests, written here, on topics of no particular field; the base model's own answers
to them are mixed into training (endogenous replay). Nothing is shared between the two but the language.

    python pipelines/demo/general_text.py --output runs/demo
"""

import argparse
import json
import random
from importlib.util import find_spec
from pathlib import Path

TOPICS = (
    "the water cycle,how bread rises,a lost dog,the French Revolution,photosynthesis,saving money,a rainy Sunday,black holes,"
    "learning the guitar,the immune system,a job interview,city traffic,the moon landing,growing tomatoes,democracy,"
    "a broken bicycle,machine learning,healthy sleep,an old lighthouse,the price of coffee"
).split(",")
REQUESTS = (
    "Explain {} in simple words.",
    "Write a short story about {}.",
    "List three facts about {}.",
    "What should a beginner know about {}?",
    "Write a short e-mail to a friend about {}.",
    "Ask me three questions about {}.",
)
PASSAGES = 120
PASSAGES_PER_SUBJECT = 3


def passages() -> list[str]:
    source = Path(find_spec("lm_eval").origin).parent / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
    subjects = json.loads(source.read_text(encoding="utf-8"))
    found = []
    for subject in sorted(subjects):
        texts = [text.strip() for text in subjects[subject].split("\n\n")]
        found += [text for text in texts if len(text) > 200][:PASSAGES_PER_SUBJECT]
    random.Random(0).shuffle(found)
    return found[:PASSAGES]


def anchors() -> list[str]:
    return [request.format(topic) for topic in TOPICS for request in REQUESTS]


def write(path: Path, key: str, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    print(f"{len(texts)} lines written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    write(output / "anchors.jsonl", "prompt", anchors())
    write(output / "general.jsonl", "text", passages())
