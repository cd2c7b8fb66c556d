"""Signed URLs and cookies, in the format of this POP and in those that users come with. One verifier per format."""
