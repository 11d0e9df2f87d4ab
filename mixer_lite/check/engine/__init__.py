"""What runs a check: trials, foreseen mistakes, reports, and the pictures in them."""
