"""What each stage does: a module for each script in stages/, with a function `main`."""
