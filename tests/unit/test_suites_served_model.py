"""What the harness hears from our server is what its own backend says of the same real model."""

import threading
from types import SimpleNamespace

import pytest

from tunegate.serving.generation import LanguageModel
from tunegate.serving.transformers_server import Api, HttpServer, handler_for

pytest.importorskip("lm_eval")
LENGTH = 128


@pytest.fixture(scope="module")
def ours(tiny_base):
    from tunegate.suites.served_model import ServedModel

    server = HttpServer(("127.0.0.1", 0), handler_for(Api(LanguageModel(tiny_base, "float32", LENGTH), "model")))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    about = SimpleNamespace(
        url=f"http://127.0.0.1:{server.server_port}", name="model", engine={"name": "transformers"}, model_dir=tiny_base,
        max_model_len=LENGTH, log="", check=lambda: None,
    )  # fmt: skip
    yield ServedModel(about, 4, "test", likeliest=True)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def theirs(tiny_base):
    from lm_eval.models.huggingface import HFLM

    # We leave room for the token before a text and for the one after it.
    return HFLM(pretrained=str(tiny_base), dtype="float32", device="cpu", batch_size=1, max_length=LENGTH - 2)


def requests(kind: str, *arguments: tuple) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, place) for place, given in enumerate(arguments)]


PAIRS = [("turn on the light", " now"), ("turn on the ", "kitchen fan"), ("", "two three"), ("please", " set up what is down")]
TURNS = [{"role": "user", "content": "turn on the fan"}]


def test_continuations_of_text_are_as_likely(ours, theirs):
    asked = requests("loglikelihood", *PAIRS)
    mine, other = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    assert [nats for nats, _ in mine] == pytest.approx([nats for nats, _ in other], abs=1e-3)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]


def test_answers_after_a_conversation_are_as_likely(ours, theirs):
    # Asked by text, the harness's backend would count the template's last line break as the beginning of the answer.
    context, answer = (theirs.tok_encode(text) for text in (theirs.apply_chat_template(TURNS), "yes please"))
    ((other, _),) = theirs._loglikelihood_tokens([(("", ""), context, answer)], disable_tqdm=True)
    ((mine, _),) = ours.loglikelihood(requests("loglikelihood", (ours.apply_chat_template(TURNS), "yes please")))
    assert mine == pytest.approx(other, abs=1e-3)


def test_what_greedy_decoding_would_say_is_called_so(ours, theirs):
    context = "turn on the light"
    (said,) = theirs.generate_until(requests("generate_until", (context, {"until": [], "max_gen_toks": 1})), disable_tqdm=True)
    ((_, greedy),) = ours.loglikelihood(requests("loglikelihood", (context, said)))
    assert greedy


@pytest.mark.parametrize("words", [12, 90])
def test_whole_texts_are_as_likely(ours, theirs, words):
    asked = requests("loglikelihood_rolling", (" ".join(["turn", "on", "the", "light", "now", "please"] * (words // 6)),))
    (mine,), (other,) = ours.loglikelihood_rolling(asked), theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert mine == pytest.approx(other, rel=1e-4)


def test_answers_are_the_same_up_to_the_stop_string(ours, theirs):
    for until in ([], ["e"]):
        kwargs = {"until": until, "max_gen_toks": 12, "do_sample": False}
        (mine,), (other,) = (
            model.generate_until(requests("generate_until", (model.apply_chat_template(TURNS), dict(kwargs)))) for model in (ours, theirs)
        )
        assert mine == other and "e" not in mine[len(mine) if not until else 0 :]
