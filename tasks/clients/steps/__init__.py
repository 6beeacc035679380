"""The clients' steps, by what an operator starts: the only files of this trade that know Prefect and blocks.

Blocks become plain values here, and the plain functions run in threads, journaled. What steps of one operation share (secrets
among it) is a ``Work`` that ``operation`` keeps for them; a step's arguments and results hold no secret.
"""
