"""`python -m rehearsal`: a former name."""
