"""Where recordings come from (uploads, URLs), and how any container becomes 16 kHz mono samples."""
