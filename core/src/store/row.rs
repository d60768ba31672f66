//! Rows: the header, checksum and body of what a store keeps.
