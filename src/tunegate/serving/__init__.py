"""Serve a model over the OpenAI API in a child process, and speak to it."""

from tunegate.serving.client import Answer, Progress, chat, continue_texts, count_tokens, prompt_ids, time_answers, token_losses
from tunegate.serving.engine import Server, identify, serve, serve_when_asked

__all__ = [
    "Answer", "Progress", "Server", "chat", "continue_texts", "count_tokens", "identify", "prompt_ids", "serve", "serve_when_asked",
    "time_answers", "token_losses",
]  # fmt: skip
