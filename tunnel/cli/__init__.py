"""The command line of both programs: arguments, verbs, tables. It runs no daemon itself."""
