"""What a query does to rows, which tables it names, and how to ask it where a row came from. Pure, on sqlglot's trees."""
