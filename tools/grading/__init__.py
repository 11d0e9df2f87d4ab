"""How a submission is graded: tools/grade.py is the command."""
