"""Links that a broker and a result backend share: connecting, error translation, reconnecting."""
