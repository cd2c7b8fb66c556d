"""Rules of sites: conditions on requests and responses, and the policy that follows from those that hold."""
