"""The web page: HTML over the same ledger and engine as the API, for a person with a browser."""
