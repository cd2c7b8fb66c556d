"""Rules of sites: conditions on requests and responses, and the policy that results from those that match."""
