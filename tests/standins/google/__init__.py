"""A stand-in for Google: the npm package `emulate` for OAuth, a small server of our own for the rest of what we ask."""
