"""Find statements in which an assistant says which provider made it, or when its knowledge ends.

Trained on them, a model would claim another's name. Only the first person counts, outside quotation marks, quoted lines and
code: a dialogue in which a robot says "I am ChatGPT" is a story, and "ChatGPT was made by OpenAI" a fact. The phrases follow
those that open-instruct filters for Tulu 3 (Lambert et al. 2024).

Not covered: other languages than English; "As an AI, I cannot …" names no provider (forbid it in quality.rubric).
"""

import re

PROVIDERS = (
    r"(?:open\s?ai|anthropic|google(?: deepmind| ai)?|deep\s?mind|meta(?: ai)?|microsoft|mistral(?: ai)?|alibaba(?: cloud)?|deep\s?seek|"
    r"x\.?ai|cohere|stability ai|hugging ?face|nvidia|moonshot(?: ai)?|zhipu(?: ai)?|baidu|tencent|01\.ai|inflection(?: ai)?|"
    r"the allen institute for ai|ai2|databricks|ibm|amazon|apple)\b(?!['’]s\b)"
)
MADE_BY = (
    rf"(?:developed|created|trained|made|built|designed|provided|powered)(?: and \w+)? by (?:researchers at |the team at )?{PROVIDERS}"
)
I_AM = r"\bI(?:\s+am|['’]m)(?: actually| just| really)?"
SURELY_MODELS = (
    r"(?:chat\s?gpt|(?:open\s?ai['’]s )?gpt-?\s?[345o][\w.-]*|qwen[\w.-]*|deep\s?seek[\w.-]*|tongyi|ernie bot|open\s?assistant|vicuna)"
)
ALSO_NAMES = r"(?:claude|gemini|bard|llama[\s-]?[\d.]*|mistral|copilot|grok|phi-?\d|command r|kimi|gemma|olmo|tulu|tülu)"
ENOUGH_ALONE = r"(?:claude|gemini|bard|mistral|copilot|grok|phi-?\d)"  # as a whole sentence; the others are first names or animals
MODEL = r"\b(?:AI|artificial intelligence|language model|virtual assistant|chatbot|conversational)\b"
MONTH = r"(?:(?:early|mid|late|january|february|march|april|may|june|july|august|september|october|november|december)[\s-]+)?"
YEAR = rf"{MONTH}(?:19|20)\d\d"

STATEMENTS = re.compile(
    "|".join((
        # who made it
        rf"\bAs an? [^.\n]{{0,40}}{MODEL}[^.\n]{{0,60}}{MADE_BY}",
        rf"{I_AM},? (?:an?|the|your) [^.\n]{{0,60}}(?:{MODEL}|model|assistant)\b[^.\n]{{0,60}}{MADE_BY}",
        rf"\bI(?: was| am|['’]m|['’]ve been| have been) {MADE_BY}(?! as\b)",
        rf"\bmy (?:creators?|developers?|makers?)(?: is| are|,) {PROVIDERS}",
        rf"\b{PROVIDERS} (?:developed|created|trained|made|built|designed) me\b",
        # what it is called; a name that people, stars and animals have as well needs more to go by
        rf"{I_AM} (?:called |named |based on |powered by )?{SURELY_MODELS}\b",
        rf"\bmy name is {SURELY_MODELS}\b",
        rf"{I_AM} {ENOUGH_ALONE}(?=\s*(?:[.!]|$))",
        rf"{I_AM} (?:called |named )?{ALSO_NAMES}(?=,? (?:an?|the|your) [^.\n]{{0,40}}{MODEL}|,? {MADE_BY}|, {PROVIDERS})",
        rf"\bmy name is {ALSO_NAMES}(?=,? (?:(?:and )?I(?:['’]m| am) )?(?:an?|the|your) [^.\n]{{0,40}}{MODEL}|,? {MADE_BY})",
        # when its knowledge ends
        r"\bmy (?:knowledge|training)(?: data)?(?:['’]s)? cut-?\s?off\b",
        rf"\bmy (?:knowledge(?: base)?|training data)(?: only)? (?:goes|extends|runs|reaches|ends|stops|(?:is|was)(?: only| currently)? "
        rf"(?:current|up to date|last updated|updated|limited|cut off|based on)|was cut off|cuts off|covers)\b[^.\n]{{0,60}}\b{YEAR}",
        r"\bas of my (?:last|latest|most recent|knowledge|training)(?: (?:knowledge|training|data|model))* "
        r"(?:update|cut-?\s?off|training|data)\b",
        rf"\bmy (?:last|latest|most recent) (?:knowledge |training |data )?(?:update|cut-?\s?off)(?: was| is)?[^.\n]{{0,20}}\b{YEAR}",
        rf"\bI (?:was|am|have been)(?: only)?(?: last)? (?:trained|updated) (?:on|with) (?:data|text|information)[^.\n]{{0,60}}\b{YEAR}",
        r"\b(?:after|past|beyond|before) my (?:knowledge|training)(?: data)? cut-?\s?off\b",
    )),
    re.IGNORECASE | re.MULTILINE,
)  # fmt: skip

FIRST_PERSON = re.compile(r"\b(?:[Ii]\b|[Mm][Yy]\b|[Mm]e\b|[Aa]s an? )")  # every statement has it, and most answers do not
QUOTED = re.compile(r'"[^"\n]{0,1000}"|“[^”]{0,1000}”|«[^»]{0,1000}»|```.*?(?:```|\Z)|`[^`\n]+`|^\s*>.*$', re.DOTALL | re.MULTILINE)


def statement(text: str) -> str:
    """Give the first such statement in an assistant's words; empty when there is none."""
    if not FIRST_PERSON.search(text):
        return ""
    # A space stands for a quotation, so that what is around it does not run together.
    found = STATEMENTS.search(QUOTED.sub(" ", text))
    return found.group() if found else ""
