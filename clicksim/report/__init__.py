"""Pictures of cases and the HTML report of a catalog."""
