"""Cold imports of the flows of this trade."""

from tests.bench.imports import imports_of

FIGURES = imports_of("gmail")
