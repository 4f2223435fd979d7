"""Write voice commands with the Home Assistant action each one means, as JSONL.

The sentences come from the templates that the package `home-assistant-intents` ships (42 English intents); a seeded random
walk over a template's expression tree gives a command, and `hassil.recognize_best`, the recogniser that Home Assistant
itself runs, gives the label. Areas, device names and free text are supplied here, as a household would.

    python pipelines/demo/sample_commands.py --rows 6000 --seed 7 --output commands.jsonl
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from hassil.expression import Alternative, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.intents import Intents, RangeSlotList, TextSlotList, WildcardSlotList
from hassil.recognize import recognize_best
from home_assistant_intents import get_intents

AREAS = (
    "kitchen,living room,bedroom,bathroom,hallway,garage,office,basement,attic,dining room,guest room,nursery,"
    "laundry room,garden,patio,balcony,study,pantry,playroom,master bedroom,den,entryway,workshop,library,sunroom"
).split(",")
FLOORS = "ground floor,first floor,second floor,upstairs,downstairs,top floor".split(",")
NAMES = {
    "light": "desk lamp,floor lamp,ceiling light,night light,reading lamp,fairy lights,porch light,mirror light,bed light,christmas tree",
    "switch": "coffee machine,heater,humidifier,sprinkler,water pump,toaster,kettle,dehumidifier,charger,aquarium",
    "fan": "ceiling fan,tower fan,exhaust fan,desk fan,box fan",
    "cover": "left curtain,roller blind,garage door,front gate,skylight,patio awning,bay window shade,kitchen shutter",
    "lock": "front door,back door,side gate,shed door,cellar door",
    "climate": "thermostat,air conditioner,heat pump,radiator,underfloor heating",
    "media_player": "tv,soundbar,record player,kitchen speaker,projector,radio,stereo",
    "vacuum": "robo,dusty,roomba,hoover",
    "lawn_mower": "mower,robot mower,grass cutter",
    "scene": "movie night,good morning,party time,dinner,romantic",
    "script": "bedtime routine,leave home,workout,wake up,game mode",
    "todo": "groceries,chores,packing,weekend,homework",
    "weather": "london,oslo,berlin,paris,seattle",
    "valve": "main water valve,garden valve,radiator valve",
    "person": "alice,bob,carol,dave,erin",
    "sensor": "outdoor sensor,rain gauge,power meter,freezer sensor",
    "binary_sensor": "smoke detector,motion sensor,mailbox,doorbell,leak sensor",
}
FREE_TEXT = {
    "message": "dinner is ready,the bus is here,time to wake up,please come downstairs,we leave in ten minutes,the pizza has arrived",
    "search_query": "jazz classics,the beatles,morning news,ocean sounds,abbey road,bach,the daily,country roads,blade runner,lo-fi beats",
    "zone": "work,school,the gym,home,the office",
    "timer_name": "pasta,laundry,tea,bread,workout,homework,eggs,rice,nap,pizza",
    "timer_command": "open the garage door,turn off the lights,lock the front door,close the blinds",
    "shopping_list_item": "milk,eggs,olive oil,brown rice,toilet paper,apples,coffee beans,dish soap,bananas,cheddar cheese",
    "todo_list_item": "call grandma,water the plants,pay rent,fix the sink,book flights,buy stamps,walk the dog,renew passport",
}


def household() -> dict[str, TextSlotList]:
    """Give the slot lists that a home supplies: its areas, floors and named devices with their domain."""
    names = [(n, n, {"domain": domain}) for domain, listed in NAMES.items() for n in listed.split(",")]
    return {
        "area": TextSlotList.from_strings(AREAS, name="area"),
        "floor": TextSlotList.from_strings(FLOORS, name="floor"),
        "name": TextSlotList.from_tuples(names, name="name"),
    }


class Walk:
    """A random walk over expression trees; `domains` restricts {name} to what the template asks for."""

    def __init__(self, rng, slot_lists, rules):
        self.rng, self.slot_lists, self.rules = rng, slot_lists, rules
        self.domains = None

    def text(self, node) -> str:
        match node:
            case TextChunk():
                return node.original_text
            case Alternative():
                return self.text(self.rng.choice(node.items))
            case Permutation():
                return " ".join(self.text(item) for item in self.rng.sample(node.items, len(node.items)))
            case Group():
                return "".join(self.text(item) for item in node.items)
            case RuleReference():
                return self.text(self.rules[node.rule_name].expression)
            case ListReference():
                return self.slot(node.list_name)
        raise TypeError(f"unknown template node {type(node).__name__}")

    def slot(self, name: str) -> str:
        values = self.slot_lists[name]
        if isinstance(values, WildcardSlotList):
            return self.rng.choice(FREE_TEXT[name].split(","))
        if isinstance(values, RangeSlotList):
            return str(self.rng.randrange(values.start, values.stop + 1, values.step))
        options = [v for v in values.values if name != "name" or not self.domains or v.context["domain"] in self.domains]
        return self.text(self.rng.choice(options).text_in)


def whole_words(value: str, command: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", command.lower()) is not None


def action(result) -> dict:
    """Turn a recognition into the JSON the model must answer with; whole numbers are written as integers."""
    slots = {}
    for name, entity in sorted(result.entities.items()):
        value = entity.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        slots[name] = value.strip() if isinstance(value, str) else value
    return {"intent": result.intent.name, "slots": slots}


def sample(rows: int, seed: int) -> tuple[list[dict], Counter]:
    """Sample `rows` distinct commands, intents in equal turns, and count what was dropped and why."""
    intents = Intents.from_dict(get_intents("en"))
    home = household()
    slot_lists = {**intents.slot_lists, **home}
    rng = random.Random(seed)
    dropped, seen, out = Counter(), set(), []
    names = sorted(intents.intents)
    while len(out) < rows and dropped.total() < rows * 40:
        intent = intents.intents[rng.choice(names)]
        data = rng.choice(intent.data)
        template = rng.choice(data.sentences)
        walk = Walk(rng, slot_lists, {**intents.expansion_rules, **data.expansion_rules})
        wanted = (data.requires_context or {}).get("domain")
        if isinstance(wanted, dict):
            wanted = wanted.get("value")
        walk.domains = {wanted} if isinstance(wanted, str) else set(wanted or ())
        try:
            command = re.sub(r"\s+", " ", walk.text(template.expression)).strip().lower()
        except (KeyError, IndexError):
            dropped["template needs a list this home lacks"] += 1
            continue
        if command in seen:
            dropped["seen before"] += 1
            continue
        seen.add(command)
        # A template that speaks of "here" is recognised only where the speaker's room is known.
        context = {"area": "kitchen"} if "area" in (data.requires_context or {}) else None
        result = recognize_best(command, intents, slot_lists=home, language="en", intent_context=context)
        if result is None:
            dropped["not recognised"] += 1
            continue
        label = action(result)
        if not all(whole_words(v, command) for v in label["slots"].values() if isinstance(v, str)):
            dropped["a slot value is not whole words of the command"] += 1
            continue
        out.append({"prompt": command, "completion": json.dumps(label), "task_type": label["intent"]})
    return out, dropped


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows, dropped = sample(args.rows, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} commands over {len({r['task_type'] for r in rows})} intents written to {args.output}; dropped: {dict(dropped)}")
