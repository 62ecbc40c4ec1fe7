"""Text for many at once, by OpenAI's API."""
