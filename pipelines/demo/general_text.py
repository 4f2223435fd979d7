"""Write the demo's general text: held passages to measure forgetting on, and anchor prompts to replay against it.

The passages are worked questions from 57 subjects that the wheel `lm-eval` (MIT) ships for its MMLU tasks; none is ever
trained on. The anchors are plain requests, and openings of plain texts, written here, on topics of no particular field;
what the base model itself answers and writes on is mixed into training (endogenous replay). Nothing is shared between the
two but the language.

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
OPENINGS = (
    "{} is",
    "The history of {}",
    "Question: What is known about {}?\nAnswer:",
    "Dear reader, this chapter is about {}.",
    "Once upon a time there was a story about {}.",
    "Problem 1. Consider {}.",
    "According to experts, {}",
    "A student asked the teacher about {}.",
    "Introduction\n{} can be described as",
    "Notes on {}:\n1.",
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


def anchors() -> list[dict]:
    asked = [{"prompt": request.format(topic)} for topic in TOPICS for request in REQUESTS]
    opened = [opening.format(topic) for topic in TOPICS for opening in OPENINGS]
    return asked + [{"opening": text[0].upper() + text[1:]} for text in opened]


def write(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} lines written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    write(output / "anchors.jsonl", anchors())
    write(output / "general.jsonl", [{"text": text} for text in passages()])
