"""The types of all JSON answers, from which the OpenAPI document is made.

The functions that build answers return them, so mypy compares the two. A key that is `NotRequired`
is left out where it has no value; one that may be None is always there. There are no other keys.
"""
