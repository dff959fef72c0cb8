"""The `midiff` command."""
