"""MODE=kafka: the same server on many machines, over Apache Kafka and S3."""
