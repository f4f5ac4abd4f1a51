"""The fields of a request and what they mean; without HTTP."""
