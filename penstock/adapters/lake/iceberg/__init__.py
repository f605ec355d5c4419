"""Tables as Iceberg v2 on local files, with the catalog in SQLite.

Tested with pyiceberg 0.12, Spark 4.1 with Iceberg 1.12, Polars 2.1. Row data never passes through here: engines write Parquet, and this
adapter checks the footers, writes Iceberg's metadata, and swaps one catalog row. The catalog is called `penstock` and its tables have
the layout (V1) that pyiceberg's SqlCatalog and Iceberg's JdbcCatalog share.

Why the metadata is written here and not by pyiceberg's transactions: there a commit costs half a millisecond more for every version
the table has; nothing is synced to disk; column ids are given at the commit, when files that need them are long written; and
a failed commit does not tell for sure whether it landed. Manifests are read and written by pyiceberg.

Limits: format v2 only; equality deletes, deletion vectors (puffin) and required columns are refused or relaxed by name; a table's
partition can change only when it is written whole.
"""

from penstock.adapters.lake.iceberg.lake import IcebergLake

__all__ = ["IcebergLake"]
