"""A stand-in for the platforms: their documented answers, limits and misbehaviour, for any account. See docs/simulator.md."""
