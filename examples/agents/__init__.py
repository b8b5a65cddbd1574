"""Small agents, one for each thing that agents can do.

Each of them runs with a real model when the key of a provider is set::

    ANTHROPIC_API_KEY=... python -m examples.agents.weather
"""
