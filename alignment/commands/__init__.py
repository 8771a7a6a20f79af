"""What each command of the CLI does, one file per group."""
