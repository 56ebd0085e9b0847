"""Reading the user's data: files, folders, tables, iterables, or nothing."""
