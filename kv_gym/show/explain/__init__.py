"""What an agent evicts and would have needed: by token, age, family, layer and head, and the problems that it costs."""
