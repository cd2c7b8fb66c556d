"""Signed URLs and cookies, in the format of edgecache and in those of other products. One verifier per format."""
