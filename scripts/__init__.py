"""How the bundled models and the company's data were made. Nothing in the package imports this."""
