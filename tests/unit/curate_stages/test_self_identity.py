"""Provider self-identity: an assistant's own claims are found, and talk about models is left alone."""

import pytest
from stage_rows import CONTEXT, row

from tunegate.curate import chat_format
from tunegate.curate.self_identity import statement
from tunegate.recipe import ChatFormat, Curate

CLAIMS = [
    "As an AI language model developed by OpenAI, I do not have personal opinions.",
    "I'm Claude, an AI assistant made by Anthropic.",
    "I’m Claude.",
    "Hello! I am ChatGPT, how can I help?",
    "I am a large language model, trained by Google.",
    "Sure. My knowledge cutoff is September 2021, so I may be out of date.",
    "My training data only goes up to April 2023.",
    "As of my last knowledge update in January 2022, there was no such law.",
    "I was created by Mistral AI to be helpful.",
    "My name is Qwen, and I was built by Alibaba Cloud.",
    "I am Gemini, a helpful AI model.",
    "OpenAI trained me to be honest.",
    "I was last trained on data up to October 2023.",
    "I cannot know about events after my knowledge cut-off.",
    "I'm based on GPT-4, so I can read images.",
    "As an artificial intelligence created by DeepSeek, I have no body.",
]
TALK = [
    "ChatGPT was developed by OpenAI and released in 2022.",
    "Claude Monet was a French painter.",
    "I'm Claude Monet, and this is my garden at Giverny.",
    "I am a Gemini, born in June.",
    "I'm a llama farmer in Peru.",
    "The knowledge cutoff of a language model is the date its training data ends.",
    "As an AI language model, I cannot feel pain.",
    "I used ChatGPT to write this letter.",
    "I was trained by Google as an engineer for three years.",
    "My knowledge of wine is limited, but this one is good.",
    "My training ends in June 2024, after which I am a nurse.",
    'The robot looked up. "I am ChatGPT," it said, "and I was made by OpenAI."',
    "```python\nprint('I am ChatGPT')\n```",
    "> I'm Claude, an AI assistant made by Anthropic.\n\nThis is what the other program wrote.",
    "My last update on the project was in March 2023 words, not pages.",
    "OpenAI, Anthropic and Google all train large language models.",
    "I am your copilot on this flight to Rome.",
    "I was made by hand in Italy.",
    "The bard sang: I am Bard of the northern valleys.",
    "I am a sailor on a ship that was designed by IBM.",
    "Hi, I'm Gemma. This is Kimi.",
    "I'm a copilot, and I was trained by Google's flight school.",
    "My phone was made by Apple, and I updated it in 2023.",
]


@pytest.mark.parametrize("text", CLAIMS)
def test_a_claim_is_found(text):
    assert statement(text)


@pytest.mark.parametrize("text", TALK)
def test_talk_about_models_is_no_claim(text):
    assert statement(text) == ""


def test_only_the_answers_count_and_the_setting_turns_it_off():
    rows = [row("I am ChatGPT, who are you?", "Nice to meet you."), row("Who are you?", CLAIMS[0])]
    found = chat_format.check(rows, Curate(), CONTEXT)
    assert found == [None, "an answer claims a provider's identity or a knowledge cutoff"]
    assert chat_format.check(rows, Curate(chat_format=ChatFormat(self_identity=False)), CONTEXT) == [None, None]
