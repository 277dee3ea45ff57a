"""What final policies reach."""
