"""What is proven about a program: bounds are interpreters over its operations, one table of rules for each domain."""
