//! Recipe, objective, loop, metrics and one module per subcommand.
