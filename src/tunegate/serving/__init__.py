"""Serve a model over the OpenAI API in a child process, and speak to it."""

from tunegate.serving.client import (
    Answer,
    Progress,
    answer_losses,
    chat,
    continue_texts,
    count_tokens,
    prompt_ids,
    time_answers,
    token_losses,
)  # fmt: skip
from tunegate.serving.engine import Server, identify, serve, serve_when_asked

__all__ = [
    "Answer", "Progress", "Server", "answer_losses", "chat", "continue_texts", "count_tokens", "identify", "prompt_ids", "serve",
    "serve_when_asked", "time_answers", "token_losses",
]  # fmt: skip
