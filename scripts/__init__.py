"""Build scripts for the bundled models and the company's data; the package does not import them."""
