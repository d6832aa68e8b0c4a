"""The command line: one file a command, which parses, calls the rooms below, and reports."""
