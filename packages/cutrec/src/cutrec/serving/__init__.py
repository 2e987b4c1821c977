"""The server of ``cutrec serve``; needs the extra ``cutrec[serve]``."""
