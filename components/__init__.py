"""The platform's layers, each a component resource in a file of its own."""
