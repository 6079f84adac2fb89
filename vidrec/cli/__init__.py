"""Run the command line: commands with their options, progress and answers."""
