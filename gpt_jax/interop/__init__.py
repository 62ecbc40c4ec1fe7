"""Models and tokenizers in and out of the Hugging Face format."""
