"""Language and toxicity: two stages that are off until a recipe asks for them."""

import pytest
from stage_rows import CONTEXT, outcomes, row

from tunegate.curate import language, toxicity
from tunegate.curate_names import LANGUAGES
from tunegate.errors import BadInput
from tunegate.recipe import Curate, Language, Privacy, Toxicity, load_recipe

ENGLISH = Curate(language=Language(keep=["en"]))
SENTENCES = {
    "en": "Please turn on the lamp in the kitchen and close the window before you leave the house.",
    "de": "Schalte bitte die Lampe in der Küche ein und schließe das Fenster, bevor du das Haus verlässt.",
    "fr": "Allume la lampe de la cuisine, s'il te plaît, et ferme la fenêtre avant de quitter la maison.",
    "es": "Enciende la lámpara de la cocina y cierra la ventana antes de salir de la casa, por favor.",
    "ja": "家を出る前に台所の電気をつけて、窓を閉めてください。",
    "ru": "Пожалуйста, включи свет на кухне и закрой окно, прежде чем выйти из дома.",
}


def test_languages_that_are_not_wanted_go_by_name():
    made = [row(text, text) for text in SENTENCES.values()]
    assert language.check(made, ENGLISH, CONTEXT) == [None, *(f"language: {code}" for code in list(SENTENCES)[1:])]
    kept = language.check(made, Curate(language=Language(keep=["de", "ja"])), CONTEXT)
    assert [code for code, outcome in zip(SENTENCES, kept, strict=True) if outcome is None] == ["de", "ja"]


def test_what_is_written_under_one_name_is_one_language():
    text = "请给我一个东非国家的列表。"
    answer = (
        "1. 坦桑尼亚 (Tanzania)\n2. 肯尼亚 (Kenya)\n3. 乌干达 (Uganda)\n4. 卢旺达 (Rwanda)\n5. 布隆迪 (Burundi)\n6. 南苏丹 (South Sudan)"
    )
    assert language._identifier().classify(f"{text}\n{answer}")[0] == "wuu"  # Wu, one of the Chinese languages
    assert language.check([row(text, answer)], Curate(language=Language(keep=["zh"])), CONTEXT) == [None]


def test_what_is_too_short_or_no_language_stays():
    made = [
        row("Ja?", "Nein."),
        row("1 2 3 4 5 6 7 8 9", "10 11 12 13 14 15 16 17"),
        row("x^2 + 3x - 4 = 0", "(x+4)(x-1) = 0 => x = -4 or x = 1"),
    ]
    assert language.check(made, ENGLISH, CONTEXT) == [None] * 3
    surely = Curate(language=Language(keep=["en"], min_characters=1, min_probability=0))
    assert language.check([made[1]], surely, CONTEXT)[0].startswith("language: ")


def test_the_system_turn_does_not_count():
    made = [row(SENTENCES["de"], SENTENCES["de"], system=SENTENCES["en"] * 5)]
    assert language.check(made, ENGLISH, CONTEXT) == ["language: de"]


def test_the_languages_of_a_recipe_are_those_that_can_be_told():
    assert set(LANGUAGES) == set(language._identifier().labels) - {"zxx"}


@pytest.mark.parametrize(
    "section, sentence",
    [
        ({"language": {"keep": ["en", "english"]}}, "'english' is not the code of a language that can be told"),
        ({"privacy": {"entities": ["EMAIL"]}}, "'EMAIL' is not an entity that can be found. Did you mean 'EMAIL_ADDRESS'?"),
        ({"privacy": {"entities": ["credit_card"]}}, "Did you mean 'CREDIT_CARD'?"),
    ],
)
def test_unknown_names_in_a_recipe_are_named(tiny_recipe, section, sentence):
    with pytest.raises(BadInput) as caught:
        load_recipe(tiny_recipe(curate=section))
    assert sentence in str(caught.value)
    assert Privacy(entities=["PHONE_NUMBER"]).entities == ["PHONE_NUMBER"]


def test_both_are_off_until_asked_for():
    assert language.off(Curate(), CONTEXT) == "curate.language.keep is empty"
    assert toxicity.off(Curate(), CONTEXT) == "curate.toxicity.max_profane_words is not set"
    assert language.off(ENGLISH, CONTEXT) == toxicity.off(Curate(toxicity=Toxicity(max_profane_words=0)), CONTEXT) == ""


def test_profane_answers_go_and_words_that_contain_such_a_word_stay():
    rude = ["What a piece of shit.", "You stupid bitch!", "Go f*ck yourself."]
    clean = [
        "She lives in Scunthorpe, Essex.",
        "I assume the class will pass the assessment.",
        "Shiitake and a cocktail, please.",
        "Kill the process.",
    ]
    none = Curate(toxicity=Toxicity(max_profane_words=0))
    assert outcomes(toxicity, rude, none) == ["profane words"] * 3
    assert outcomes(toxicity, clean, none) == [None] * 4
    assert outcomes(toxicity, rude, Curate(toxicity=Toxicity(max_profane_words=1))) == [None] * 3
    assert toxicity.check([row("Is it shit?", "It could be better.")], none, CONTEXT) == [None]
