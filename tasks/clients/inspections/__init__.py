"""What diagnose-client looks at, an idea per file. Each look ends within a deadline of its own and changes nothing."""
