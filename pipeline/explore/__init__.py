"""`pipeline explore`: a store looked through in the browser, on this machine alone."""
