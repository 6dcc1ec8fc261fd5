"""Keep the Chinese edition in step: notebooks, messages of the package, the rules for both."""
