"""Pure functions on words and segments: sentences, speakers, numerals, times."""
