"""Stores that lie: plain HTTP, WebDAV and S3, each with habits of real stores, and a journal that
knows the truth.

`habits` is the table, with the place where each was seen; `store_habits` decides when a habit occurs;
`stored_objects` holds the objects, and the journal of every write and its writer; `base` is the loop of a
connection; `plain`, `dav` and `s3` speak the protocols."""
