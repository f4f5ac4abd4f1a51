"""What the server does, as metrics; it observes the services from outside."""
