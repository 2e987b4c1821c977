"""The commands of ``cutrec``, one module each: its arguments, and the call of the function that does the work."""
