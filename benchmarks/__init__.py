"""How fast it is: every figure beside what it is compared with, both from one run."""
