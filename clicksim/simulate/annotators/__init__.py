"""Models of the people who prompt: their settings and effects, their files, and fitting them to recorded prompts."""
