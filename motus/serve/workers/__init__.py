"""One-shot processes: each serves one turn and is gone."""
