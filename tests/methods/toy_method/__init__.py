"""A method that lives in the tests alone: it shows what another package has to write, and registers nothing itself."""
