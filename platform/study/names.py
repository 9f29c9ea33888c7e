"""Names of studies whose trials call a function of the user's."""

FUNCTION = "objective"  # in place of a method's
NOTEBOOK = "notebook:"  # the beginning of the name of a function that is in no file
