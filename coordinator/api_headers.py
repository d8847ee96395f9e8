"""Names of the API's own HTTP headers, for the service and its client."""

IDEMPOTENCY_KEY = "idempotency-key"
IDEMPOTENCY_REPLAYED = "idempotency-replayed"
