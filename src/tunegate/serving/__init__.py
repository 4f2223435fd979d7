"""Serve a model over the OpenAI API in a child process, and speak to it."""

from tunegate.serving.client import Answer, Progress, chat, continue_texts, count_tokens, token_losses
from tunegate.serving.engine import Server, identify, serve

__all__ = ["Answer", "Progress", "Server", "chat", "continue_texts", "count_tokens", "identify", "serve", "token_losses"]
